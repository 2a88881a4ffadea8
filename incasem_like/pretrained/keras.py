"""U-Nets that ExLLSM's Keras code stored in HDF5 (``neuron_2021.h5``): read, converted, and compared with NumPy.

The conversion and the forward pass in NumPy are written independently of each other: at every import, the converted
network has to give the values of the one that Keras' layers would compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from incasem_like.config.network_sections import UnetModel
from incasem_like.errors import CheckpointError
from incasem_like.networks import build_network, fit_state, network_geometry
from incasem_like.pretrained.bootstrapper import check_logits

Array = npt.NDArray[Any]
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasUnet:
    """The weights of a U-Net as Keras stores them.

    Attributes:
        blocks: For each block, finest first, down and up again: its kernels and biases in turn. Kernels are
            (..., in, out); the last of a block that ends in a transposed convolution is (..., out, in).
    """

    blocks: tuple[tuple[Array, ...], ...]

    @property
    def levels(self) -> int:
        """Number of down-sampling steps."""
        return (len(self.blocks) - 1) // 2

    @property
    def model(self) -> UnetModel:
        """The options of the same network here."""
        first, last = self.blocks[0], self.blocks[-1]
        return UnetModel(
            in_channels=first[0].shape[-2],
            num_fmaps=first[2].shape[-1],
            num_fmaps_out=last[-2].shape[-1],
            downsample_factors=((2,) * (first[0].ndim - 2),) * self.levels,
            halve_first=True,
            constant_upsample=False,
            upsampled_first=True,
            crop_to_factor=False,
            final_kernel_size=last[-2].shape[0],
            bottleneck_dropout=0.2,
            initialization="glorot_uniform",
        )


def is_keras(path: Path) -> bool:
    """Return whether a file is HDF5, as Keras writes it."""
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def read_keras(path: Path) -> KerasUnet:
    """Read the weights of a U-Net from a model or weights that Keras stored.

    Raises:
        CheckpointError: It is not such a file, or not a U-Net of blocks as ExLLSM's.
    """
    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            layers = [group[name] for name in group.attrs["layer_names"]]
            blocks = [tuple(np.asarray(layer[name]) for name in layer.attrs["weight_names"]) for layer in layers]
    except (OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a network that Keras stored ({error}): use another."
        ) from error
    filled = tuple(block for block in blocks if block)
    # Down to the bottom, 2 convolutions a block; at the bottom and above, 3 with the transposed or the last one.
    levels = (len(filled) - 1) // 2
    expected = [4] * levels + [6] * (len(filled) - levels)
    if levels < 1 or len(filled) % 2 == 0 or [len(block) for block in filled] != expected:
        raise CheckpointError(
            f"{path} is not a U-Net of ExLLSM's blocks: it has blocks of {[len(block) for block in filled]} tensors; "
            "use another."
        )
    return KerasUnet(filled)


def converted(unet: KerasUnet, scale: float, path: Path) -> nn.Module:
    """Return the network with these weights.

    The network in Keras receives raw values times a factor; here raw lies in [-1, 1]. With valid convolutions that is
    the same once the first convolution's weights w and biases b are replaced by s w and b + s sum(w).

    Args:
        unet: The weights in Keras' layout.
        scale: Half the value that the largest raw value, 1 here, has there: s.
        path: The file, for messages.

    Raises:
        CheckpointError: A tensor has another shape than in such a network, or the values of the converted network
            differ from those of Keras' layers.
    """
    state: dict[str, torch.Tensor] = {}
    for name, value in _named(unet):
        # (..., in, out) to (out, in, ...), and for transposed convolutions (..., out, in) to (in, out, ...).
        axes = (value.ndim - 1, value.ndim - 2, *range(value.ndim - 2)) if value.ndim > 1 else (0,)
        state[name] = torch.from_numpy(np.ascontiguousarray(value.transpose(axes), dtype=np.float32))
    weight, bias = (f"unet.l_conv.0.conv_pass.0.{kind}" for kind in ("weight", "bias"))
    state[bias] = state[bias] + scale * state[weight].flatten(1).sum(1)
    state[weight] = state[weight] * scale
    with torch.random.fork_rng(devices=[]):
        network = build_network(unet.model)
    fit_state(network, state, path)
    raw = np.random.default_rng(0).random((*network_geometry(unet.model).smallest_input, unet.model.in_channels))
    maps, expected = (
        torch.from_numpy(np.moveaxis(values, -1, 0)[None])
        for values in (raw * 2 - 1, keras_forward(unet, raw * 2 * scale))
    )
    check_logits(path, network, maps, expected, "Keras' layers", " and --scaling_factor is right")
    return network


def keras_forward(unet: KerasUnet, maps: Array) -> Array:
    """Compute the network's logits (..., classes) of maps (..., channels), by the definitions of Keras' layers."""
    skipped = []
    for index, block in enumerate(unet.blocks):
        for kernel, bias in (block[:2], block[2:4]):
            maps = np.maximum(_convolution(maps, kernel, bias), 0)
        if index < unet.levels:
            skipped.append(maps)
            for axis in range(maps.ndim - 1):
                maps = np.maximum(*(np.take(maps, range(at, maps.shape[axis], 2), axis) for at in (0, 1)))
        elif skipped:
            maps, beside = _transposed_convolution(maps, *block[4:6]), skipped.pop()
            margins = [(large - small) // 2 for large, small in zip(beside.shape[:-1], maps.shape[:-1], strict=True)]
            crop = tuple(slice(at, at + size) for at, size in zip(margins, maps.shape[:-1], strict=True))
            maps = np.concatenate([maps, beside[crop]], axis=-1)
    return _convolution(maps, *unet.blocks[-1][4:6])


def _named(unet: KerasUnet) -> Iterator[tuple[str, Array]]:
    levels = unet.levels
    for index, block in enumerate(unet.blocks):
        above = 2 * levels - index
        passes = f"unet.l_conv.{index}" if index <= levels else f"unet.r_conv.0.{above}"
        last = f"unet.r_up.0.{above - 1}.up" if above else "final_conv_pass.conv_pass.0"
        layers = (f"{passes}.conv_pass.0", f"{passes}.conv_pass.2", last)
        for number, value in enumerate(block):
            yield f"{layers[number // 2]}.{'bias' if number % 2 else 'weight'}", value


def _convolution(maps: Array, kernel: Array, bias: Array) -> Array:
    shape = tuple(size - edge + 1 for size, edge in zip(maps.shape[:-1], kernel.shape[:-2], strict=True))
    total = np.zeros((*shape, kernel.shape[-1])) + bias
    for at in np.ndindex(kernel.shape[:-2]):
        total += maps[tuple(slice(begin, begin + size) for begin, size in zip(at, shape, strict=True))] @ kernel[at]
    return total


def _transposed_convolution(maps: Array, kernel: Array, bias: Array) -> Array:
    edges = kernel.shape[:-2]
    result = np.zeros((*(size * edge for size, edge in zip(maps.shape[:-1], edges, strict=True)), kernel.shape[-2]))
    for at in np.ndindex(edges):
        result[tuple(slice(begin, None, edge) for begin, edge in zip(at, edges, strict=True))] = maps @ kernel[at].T
    return result + bias
