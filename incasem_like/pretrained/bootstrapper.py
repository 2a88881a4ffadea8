"""Checkpoints of bootstrapper, plain or of Lightning: read, converted, and compared with the layers' definition.

The U-Net's parameter names are those of this package; the heads become its last convolution. A network that reads
predictions gets them from 0 to 1 there and from -1 to 1 here. At every import, the converted network has to give the
values of the original layers, computed tensor by tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from incasem_like.config.network_sections import UnetModel
from incasem_like.errors import CheckpointError, InputError
from incasem_like.networks import build_network, fit_state, network_geometry
from incasem_like.networks.checkpoints import NETWORK_KEY, OPTIMIZER_KEY
from incasem_like.networks.unet import centre_crop
from incasem_like.networks.unet_geometry import UnetLayout, convolution_crop, cropped_size

State = Mapping[str, torch.Tensor]
FIRST, NET_CONFIG = "unet.l_conv.0.conv_pass.0.weight", "net_config.json"
HEAD = re.compile(r"(lsd|aff)s?_head\.conv_pass\.0\.weight")
TOLERANCE = 1e-4  # of logits, relative to the largest: float32 against float64
NEIGHBOURS_2D = [[0, -step, 0][axis:][:2] for step in (1, 9, 27) for axis in (1, 0)]
NEIGHBOURS_3D = [
    [-1, 0, 0], [0, -1, 0], [0, 0, -1], [-2, 0, 0], [0, -9, 0], [0, 0, -9], [-3, 0, 0], [0, -27, 0], [0, 0, -27]
]  # fmt: skip
INPUTS = {2: ("2d_affs",), 8: ("2d_lsds", "2d_affs"), 10: ("3d_lsds",), 12: ("2d_lsds", "2d_affs")}
LSD_CHANNELS = {"2d": 6, "3d": 10}


@dataclass(frozen=True)
class BootstrapperUnet:
    """The weights of a checkpoint, and what they say of the network.

    Attributes:
        state: Tensors by parameter name, without a prefix.
        iteration: Updates that it had seen; None where the file does not say.
        described: The content of its ``net_config.json``; empty without one.
        path: The file, for messages.
    """

    state: State
    iteration: int | None
    described: Mapping[str, Any]
    path: Path

    @property
    def heads(self) -> dict[str, int]:
        """Channels of each head, in their order: descriptors before affinities."""
        names = [name for name in self.state if HEAD.fullmatch(name)]
        names.sort(key=lambda name: not name.startswith("lsd"))
        return {name.partition(".")[0]: int(self.state[name].shape[0]) for name in names}

    @property
    def dims(self) -> int:
        """Axes of its convolutions."""
        return self.state[FIRST].dim() - 2

    @property
    def decoders(self) -> int:
        """Number of decoders: 1 for all heads, or one for each."""
        return 1 + max(int(found[1]) for name in self.state if (found := re.match(r"unet\.r_conv\.(\d+)\.", name)))

    @property
    def input_names(self) -> tuple[str, ...]:
        """What it reads instead of raw, such as ``2d_lsds``; nothing for raw.

        Raises:
            InputError: The number of channels is that of several inputs, and there is no ``net_config.json``.
        """
        channels = self.state[FIRST].shape[1]
        if self.dims == 2 or channels == 1:
            return ()
        names = tuple(self.described.get("inputs") or INPUTS.get(channels, ()))
        if not names:
            raise InputError(
                f"What the {channels} input channels of {self.path.name} are is not known: add --config FILE, its "
                f"{NET_CONFIG}."
            )
        return names

    def kernels(self, block: str) -> list[list[int]]:
        """Return the sizes of a block's convolutions, in their order; ``CheckpointError`` if it lacks the first."""
        if f"{block}.conv_pass.0.weight" not in self.state:
            raise CheckpointError(f"{self.path} is not a complete U-Net: it lacks {block}; use another.")
        found = sorted(
            (int(name.split(".")[-2]), list(tensor.shape[2:]))
            for name, tensor in self.state.items()
            if name.startswith(f"{block}.conv_pass.") and name.endswith(".weight")
        )
        return [kernel for _, kernel in found]

    def values(self, sigma: float | None) -> dict[str, Any]:
        """Return the sections of a training configuration: the network, what it reads and what it learns.

        Args:
            sigma: Sigma of the descriptors that it reads or predicts, nm; None if the user did not say it.

        Raises:
            InputError: Sigma, or the offsets of affinities, are needed and not known.
            CheckpointError: A block of the U-Net is missing.
        """
        levels = len({name.split(".")[2] for name in self.state if name.startswith("unet.l_conv.")}) - 1
        down = [self.kernels(f"unet.l_conv.{level}") for level in range(levels + 1)]
        up = [self.kernels(f"unet.r_conv.0.{level}") for level in range(levels)]
        first, second, last = (
            self.state[f"unet.{block}.conv_pass.0.weight"].shape for block in ("l_conv.0", "l_conv.1", "r_conv.0.0")
        )
        factors = self.described.get("downsample_factors") or [[1, 2, 2][-self.dims :]] * levels
        described, reads, left = self.described.get("inputs") or {}, [], int(first[1])
        for name in self.input_names:
            own = LSD_CHANNELS[name[:2]] if "lsd" in name else described.get(name, {}).get("dims", left)
            reads.append(self._target(name, int(own), described.get(name), sigma))
            left -= int(own)
        heads = [(f"{self.dims}d_{head[:3]}s", channels) for head, channels in self.heads.items()]
        outputs = self.described.get("outputs") or {}
        model = {
            "type": "Unet",
            **({"adjacent_sections": int(first[1])} if self.dims == 2 else {}),
            **({"in_channels": int(first[1])} if reads else {}),
            "num_fmaps": int(first[0]),
            "num_fmaps_out": sum(self.heads.values()),
            "fmap_inc_factor": int(second[0]) // int(first[0]),
            "num_fmaps_last": int(last[0]) if last[0] != first[0] else None,
            "downsample_factors": [list(factor) for factor in factors],
            "kernel_size_down": down,
            "kernel_size_up": up,
            "residual": "linear",
            "upsample_mode": "linear",
            "final_kernel_size": 1,
            "decoder_channels": list(self.heads.values()) if self.decoders > 1 else None,
            "initialization": "he_normal",
        }
        return {
            "model": model,
            "targets": [self._target(name, channels, outputs.get(name), sigma) for name, channels in heads],
            "training": {
                "augmentation": {"simple": None, "elastic": None},
                **({"synthetic": {"input": reads}} if reads else {}),
            },
        }

    def _target(
        self, name: str, channels: int, described: Mapping[str, Any] | None, sigma: float | None
    ) -> dict[str, Any]:
        """Return the target that ``2d_lsds``, ``3d_affs`` and so on stand for."""
        described = described or {}
        if "lsd" in name:
            if sigma is None:
                stated = described.get("sigma")
                says = f" ({NET_CONFIG} says {stated}, in units of a voxel size that it lacks)" if stated else ""
                raise InputError(
                    f"The sigma of the descriptors of {self.path.name} is not known{says}: add --sigma NM, in nm of "
                    "--voxel_size."
                )
            return {"type": "lsd", "sigma": sigma, "per_section": name.startswith("2d")}
        known = NEIGHBOURS_2D if name.startswith("2d") else NEIGHBOURS_3D
        offsets = described.get("neighborhood") or (known[:channels] if channels in (2, 3, 6, 9) else [])
        if len(offsets) != channels:
            raise InputError(
                f"The offsets of the {channels} affinities {name} of {self.path.name} are not known: add --config "
                f"FILE, its {NET_CONFIG} with as many."
            )
        return {"type": "affinities", "offsets": offsets, "loss": "mse"}


def read_bootstrapper(content: Any, path: Path, net_config: Path | None = None) -> BootstrapperUnet | None:
    """Take the content of a checkpoint for one of bootstrapper, plain or of Lightning; None if it is another's.

    Args:
        content: What ``read_whole`` read.
        path: The file.
        net_config: Its ``net_config.json``; by default the one beside it, if there is one.

    Raises:
        InputError: ``net_config`` cannot be read.
    """
    if not isinstance(content, Mapping):
        return None
    state = next((content[key] for key in ("state_dict", NETWORK_KEY) if key in content), content)
    names = [str(name) for name in state] if isinstance(state, Mapping) else []
    prefix = next((name.removesuffix(FIRST) for name in names if name.endswith(FIRST)), None)
    if prefix is None:
        return None
    tensors = {name.removeprefix(prefix): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not any(HEAD.fullmatch(name) for name in tensors):
        return None
    optimizers = [*(content.get("optimizer_states") or ()), content.get(OPTIMIZER_KEY) or {}]
    steps = [int(one["step"]) for each in optimizers for one in (each.get("state") or {}).values() if "step" in one]
    file = net_config or path.with_name(NET_CONFIG)
    described: Any = {}
    if net_config is not None or file.exists():
        try:
            described = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(described, dict):
                raise ValueError("it is not an object")
        except (OSError, ValueError) as error:
            raise InputError(f"{file} is not the {NET_CONFIG} of a network ({error}): correct it.") from None
    return BootstrapperUnet(tensors, content.get("global_step") or max(steps, default=None), described, path)


def converted(unet: BootstrapperUnet, model: UnetModel) -> nn.Module:
    """Return the network with these weights.

    Raises:
        CheckpointError: A tensor has another shape than in such a network, or the values of the converted network
            differ from those of the original layers.
    """
    state = {name: tensor.float() for name, tensor in unet.state.items() if name.startswith("unet.")}
    for kind in ("conv_pass.0.weight", "conv_pass.0.bias", "residual.0.weight", "residual.0.bias"):
        parts = [unet.state[f"{head}.{kind}"].float() for head in unet.heads if f"{head}.{kind}" in unet.state]
        if unet.decoders > 1:
            state |= {f"final_conv_passes.{number}.{kind}": part for number, part in enumerate(parts)}
        elif parts:
            state[f"final_conv_pass.{kind}"] = torch.cat(parts)
    if unet.input_names:  # w x + b of x = (y + 1) / 2
        for layer in ("unet.l_conv.0.conv_pass.0", "unet.l_conv.0.residual.0"):
            weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
            state |= {f"{layer}.weight": weight / 2, f"{layer}.bias": bias + weight.flatten(1).sum(1) / 2}
    with torch.random.fork_rng(devices=[]):
        network = build_network(model)
    fit_state(network, state, unet.path)
    shape = (1, int(unet.state[FIRST].shape[1]), *network_geometry(model).smallest_input[-unet.dims :])
    maps = torch.from_numpy(np.random.default_rng(0).random(shape))
    expected = original_forward(unet, model, maps if unet.input_names else 2 * maps - 1)
    check_logits(unet.path, network, 2 * maps - 1, expected, "its layers", "")
    return network


def check_logits(
    path: Path, network: nn.Module, maps: torch.Tensor, expected: torch.Tensor, whose: str, remedy: str
) -> None:
    """Check that a converted network gives the logits of the original layers, up to float32's accuracy.

    Args:
        path: The file, for messages.
        network: The converted network.
        maps: Its input, (b, channels, ...).
        expected: The logits that it has to give, (b, channels, ...), in float64.
        whose: What they were computed from, for messages.
        remedy: What else to check, for messages.

    Raises:
        CheckpointError: It gives others.
    """
    with torch.inference_mode():
        difference = float((network.eval()(maps.float()).double() - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{path} cannot be converted: the logits differ from those of {whose} by {difference:.3g}; check that its "
            f"weights are finite{remedy}."
        )


def original_forward(unet: BootstrapperUnet, model: UnetModel, maps: torch.Tensor) -> torch.Tensor:
    """Compute the logits (b, channels, ...) of maps (b, channels, ...), from the tensors of the file, in float64."""
    state = {name: tensor.double() for name, tensor in unet.state.items()}
    convolve: Any = functional.conv2d if unet.dims == 2 else functional.conv3d
    pool: Any = functional.max_pool2d if unet.dims == 2 else functional.max_pool3d
    layout = UnetLayout.from_config(model)

    def passed(name: str, before: torch.Tensor) -> torch.Tensor:
        layers = sorted({int(key.split(".")[-2]) for key in state if key.startswith(f"{name}.conv_pass.")})
        after = before
        for number in layers:
            after = functional.relu(after) if number else after
            after = convolve(after, *(state[f"{name}.conv_pass.{number}.{kind}"] for kind in ("weight", "bias")))
        added = convolve(before, *(state[f"{name}.residual.0.{kind}"] for kind in ("weight", "bias")))
        return after + centre_crop(added, after.shape[2:])

    skipped = [functional.relu(passed("unet.l_conv.0", maps))]
    for level, factor in enumerate(layout.factors, start=1):
        skipped.append(functional.relu(passed(f"unet.l_conv.{level}", pool(skipped[-1], tuple(factor)))))
    decoded = []
    for decoder in range(unet.decoders):
        below = skipped[-1]
        for level in reversed(range(layout.levels)):
            mode = "bilinear" if unet.dims == 2 else "trilinear"
            scale = [float(number) for number in layout.factors[level]]
            below = functional.interpolate(below, scale_factor=scale, mode=mode)
            lost = [convolution_crop(layout.kernels_up[level], axis) for axis in range(unet.dims)]
            sizes = zip(below.shape[2:], lost, layout.crop_factor(level), strict=True)
            wanted = [cropped_size(size, crop, step) for size, crop, step in sizes]
            below = torch.cat([centre_crop(skipped[level], wanted), centre_crop(below, wanted)], dim=1)
            below = functional.relu(passed(f"unet.r_conv.{decoder}.{level}", below))
        decoded.append(below)
    return torch.cat([passed(head, decoded[at % len(decoded)]) for at, head in enumerate(unet.heads)], dim=1)
