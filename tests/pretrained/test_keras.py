"""U-Nets as ExLLSM's Keras code stores them, written here in Keras' layout, become networks with the same values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from incasem_like.errors import CheckpointError, InputError
from incasem_like.networks import build_network, load_checkpoint
from incasem_like.pretrained.importing import Importer
from incasem_like.pretrained.keras import KerasUnet, converted, keras_forward, read_keras
from incasem_like.pretrained.manifest import read_manifest
from incasem_like.pretrained.sources import Description, Sources
from incasem_like.tracking import open_store

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "import_keras.py"


def unet_blocks(filters: int = 1, levels: int = 1, dims: int = 3) -> tuple[tuple[np.ndarray, ...], ...]:
    """Random weights: blocks down with ``filters``, then doubled, the bottom, blocks up, and the output."""
    random = np.random.default_rng(0)

    def layer(edge: int, before: int, after: int, transposed: bool = False) -> tuple[np.ndarray, np.ndarray]:
        spread = (2 / (edge**dims * before)) ** 0.5
        channels = (after, before) if transposed else (before, after)
        return (
            random.normal(0, spread, (*(edge,) * dims, *channels)).astype(np.float32),
            random.uniform(0, 0.2, after).astype(np.float32),
        )

    blocks, channels = [], 1
    for level in range(levels + 1):
        maps = filters * 2**level
        blocks.append((*layer(3, channels, maps), *layer(3, maps, 2 * maps)))
        channels = 2 * maps
    blocks[-1] += layer(2, channels, channels, transposed=True)
    for level in reversed(range(levels)):
        maps = 2 * filters * 2**level
        convolutions = (*layer(3, channels + maps, maps), *layer(3, maps, maps))
        blocks.append((*convolutions, *(layer(2, maps, maps, transposed=True) if level else layer(1, maps, 2))))
        channels = maps
    return tuple(blocks)


def write_keras(path: Path, blocks: Any, *, weights_alone: bool = False) -> Path:
    """Write weights as Keras 2 does: a group per layer, whose attribute lists its datasets."""
    with h5py.File(path, "w") as file:
        group = file if weights_alone else file.create_group("model_weights")
        names = ["input_1", *(f"block_{number}" for number in range(len(blocks)))]
        group.attrs["layer_names"] = [name.encode() for name in names]
        group.create_group("input_1").attrs["weight_names"] = []
        number = 15  # layers are numbered through a session
        for name, block in zip(names[1:], blocks, strict=True):
            layer = group.create_group(name)
            stored = []
            for index, value in enumerate(block):
                stored.append(f"{name}/conv3d_{number + index // 2}/{'bias' if index % 2 else 'kernel'}:0")
                layer[stored[-1]] = value
            layer.attrs["weight_names"] = [word.encode() for word in stored]
            number += len(block) // 2
    return path


@pytest.mark.parametrize(("filters", "levels", "dims"), [(1, 1, 3), (2, 2, 3), (2, 3, 2)])
def test_the_network_has_the_values_of_keras_layers(tmp_path: Path, filters: int, levels: int, dims: int) -> None:
    blocks = unet_blocks(filters, levels, dims)
    unet = read_keras(write_keras(tmp_path / "unet.h5", blocks, weights_alone=dims == 2))
    network: Any = converted(unet, 3.0, tmp_path / "unet.h5")
    size = tuple(s + t for s, t in zip(network.geometry.smallest_input, network.geometry.stride, strict=True))
    raw = np.random.default_rng(1).random(size).astype(np.float32)
    expected = keras_forward(KerasUnet(blocks), raw[..., None].astype(np.float64) * 6.0)
    with torch.no_grad():
        found = network(torch.from_numpy(raw * 2 - 1)[None, None])[0].numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), expected, atol=1e-4 * np.abs(expected).max())


def test_the_numpy_layers_are_those_of_keras_definition() -> None:
    """One level on an image, computed voxel by voxel: the output and its neighbours see what their definition says."""
    blocks = unet_blocks(1, 1, 2)
    image = np.random.default_rng(2).random((20, 20, 1))

    def convolve(maps: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
        rows, columns = (size - kernel.shape[0] + 1 for size in maps.shape[:2])
        result = np.empty((rows, columns, kernel.shape[-1]))
        for y in range(rows):
            for x in range(columns):
                window = maps[y : y + kernel.shape[0], x : x + kernel.shape[1]]
                result[y, x] = np.einsum("yxi,yxio->o", window, kernel) + bias
        return result

    def twice(maps: np.ndarray, block: Any) -> np.ndarray:
        return convolve(convolve(maps, *block[:2]).clip(0), *block[2:4]).clip(0)

    above = twice(image, blocks[0])
    pooled = above.reshape(8, 2, 8, 2, -1).max((1, 3))
    below = twice(pooled, blocks[1])
    kernel, bias = blocks[1][4:6]
    up = np.empty((2 * below.shape[0], 2 * below.shape[1], kernel.shape[2]))
    for y in range(up.shape[0]):
        for x in range(up.shape[1]):
            up[y, x] = kernel[y % 2, x % 2] @ below[y // 2, x // 2] + bias
    joined = np.concatenate([up, above[4:12, 4:12]], axis=-1)
    expected = convolve(twice(joined, blocks[2]), *blocks[2][4:6])
    np.testing.assert_allclose(keras_forward(KerasUnet(blocks), image), expected, atol=1e-9)


def test_a_transposed_kernel_in_the_wrong_order_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = unet_blocks()
    swapped = tuple(
        tuple(value.swapaxes(-1, -2) if index == 4 and value.shape[0] == 2 else value for index, value in enumerate(b))
        for b in blocks
    )
    right = keras_forward
    monkeypatch.setattr(
        "incasem_like.pretrained.keras.keras_forward", lambda unet, maps: right(KerasUnet(blocks), maps)
    )
    with pytest.raises(CheckpointError, match="the logits differ from those of Keras"):
        converted(KerasUnet(swapped), 1.0, tmp_path / "unet.h5")


def test_files_that_are_not_such_networks_are_refused(tmp_path: Path) -> None:
    blocks = unet_blocks()
    path = tmp_path / "unet.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(CheckpointError, match="damaged or not a network that Keras stored"):
        read_keras(path)
    with h5py.File(path, "w") as file:
        file["raw"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="damaged or not a network that Keras stored"):
        read_keras(path)
    with pytest.raises(CheckpointError, match=r"not a U-Net of ExLLSM's blocks: it has blocks of \[4, 6\] tensors"):
        read_keras(write_keras(path, blocks[:2]))
    wrong = (blocks[0], (*blocks[1][:4], *unet_blocks(2)[1][4:6]), blocks[2])
    with pytest.raises(
        CheckpointError, match=r"another architecture: unet\.r_up\.0\.0\.up\.weight is .* in the file and"
    ):
        converted(read_keras(write_keras(path, wrong)), 1.0, path)
    broken = ((np.full_like(blocks[0][0], np.nan), *blocks[0][1:]), *blocks[1:])
    with pytest.raises(CheckpointError, match="check that its weights are finite"):
        converted(read_keras(write_keras(path, broken)), 1.0, path)


def test_an_import_makes_a_run_that_can_predict(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "neuron.h5", unet_blocks())
    sources = Sources(read_manifest(), tmp_path / "models")
    store = open_store(tmp_path / "runs", "trainings", tmp_path / "runs")
    with pytest.raises(InputError, match="add --scaling_factor F"):
        list(sources.read(sources.find(str(path)), Description(voxel_size=(180, 104, 104))))
    said = Description(voxel_size=(180, 104, 104), scaling_factor=0.001)
    for how in ("imported", "there"):
        (candidate,) = sources.read(sources.find(str(path)), said)
        assert Importer(store).add(*candidate).how == how
    record = store.get(store.ids()[0])
    from incasem_like.config import resolve_training_config

    config = resolve_training_config(record.config)
    network = build_network(config.model)
    load_checkpoint(record.checkpoints[0].path, network)
    assert (record.name, config.data.num_classes) == ("neuron", 2)
    raw = np.random.default_rng(0).integers(0, 5000, network.geometry.smallest_input).astype(np.float64)
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(raw / 65535 * 2 - 1).float()[None, None])[0].numpy()
    expected = np.moveaxis(keras_forward(KerasUnet(unet_blocks()), raw[..., None] * 0.001), -1, 0)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_the_script_imports_a_file(tmp_path: Path) -> None:
    path = write_keras(tmp_path / "neuron.h5", unet_blocks())
    command = [sys.executable, SCRIPT, path, "--scaling_factor", "0.001", "--voxel_size", "180", "104", "104"]
    places = {"INCASEM_RUNS": str(tmp_path / "runs"), "INCASEM_MODELS": str(tmp_path / "models")}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env={**os.environ, **places}
    )
    assert done.returncode == 0, done.stderr
    assert "Imported run 1 (neuron)" in done.stdout
