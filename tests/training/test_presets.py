"""The presets: they load, their block sizes fit their networks, they are explained, and they train."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incasem_like.config import TrainingConfig, load_training_config
from incasem_like.networks import build_network, geometry_in_volumes, network_geometry, save_checkpoint
from incasem_like.training.experiment import train

REPOSITORY = Path(__file__).resolve().parents[2]
PRESETS = sorted((REPOSITORY / "scripts/02_train/presets").glob("*.yaml"))
ADVICE = (REPOSITORY / "docs/presets.md").read_text()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_fits_its_network_and_has_advice(path: Path) -> None:
    config = load_training_config([path])
    geometry = geometry_in_volumes(network_geometry(config.model))
    for section in (config.training, config.validation):
        assert geometry.output_size(section.input_size_voxels) == section.output_size_voxels
    assert f"\n## {path.stem}\n" in ADVICE
    assert f"| `{path.stem}` |" in ADVICE


def test_the_first_network_of_acrlsd_is_that_of_lsd() -> None:
    folder = PRESETS[0].parent
    lsd, acrlsd = (load_training_config([folder / name]).model for name in ("lsd.yaml", "acrlsd.yaml"))
    kept = {"outputs", "initialization"}
    first: Any = acrlsd.first  # type: ignore[attr-defined]
    assert first.model_dump(exclude=kept) == lsd.model_dump(exclude=kept)


@pytest.fixture(scope="module")
def neurites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume of two classes of ids, and its data configuration for voxels of any size."""
    from incasem_like.volumes import create_volume

    folder = tmp_path_factory.mktemp("neurites")
    z, y, x = np.indices((160, 160, 160))
    labels = ((y // 12) % 3 + 3 * ((x // 10) % 4) + 12 * (z // 40)).astype(np.uint32)
    raw = (40 + 20 * (labels % 7)).astype(np.uint8)
    for name, array in (("raw", raw), ("labels", labels), ("foreground", (labels % 3 == 1).astype(np.uint8))):
        volume = create_volume(
            folder / "cell.zarr",
            name,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=(8, 8, 8),
            chunk_shape=(80, 80, 80),
        )
        volume.write(array)
        volume.mark_complete()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains(path: Path, neurites: Path, tmp_path: Path) -> None:
    """Its targets, network and augmentation, with few feature maps and the smallest blocks that give some output."""
    config = small(path, tmp_path)
    target = config.targets[0].type if config.targets else "classes"
    dataset = "foreground" if target == "classes" else "labels"
    entry = {"file": f"{neurites}/cell.zarr", "voxel_size": [8, 8, 8], "raw": "raw", "labels": {dataset: 1}}
    (tmp_path / "data.json").write_text(json.dumps({"cell": {**entry, "offset": [0, 0, 0], "shape": [160, 160, 160]}}))
    finished = train(config, store=lambda: None)
    assert (finished.folders.models / "model_checkpoint_1").is_file()


def small(path: Path, folder: Path) -> TrainingConfig:
    values = load_training_config([path])
    random_objects = values.training.synthetic is not None
    updates = ["model.num_fmaps=2", "model.fmap_inc_factor=1"]
    if not random_objects:
        updates.append("data.voxel_size=[8,8,8]")
    if values.model.type == "AutoContext":
        (folder / "first").touch()
        updates += [
            "model.first.num_fmaps=2",
            "model.first.fmap_inc_factor=1",
            f"model.first_checkpoint={folder}/first",
        ]
    model = load_training_config([path], updates).model
    if values.model.type == "AutoContext":
        save_checkpoint(folder / "first", build_network(model.first))  # type: ignore[attr-defined]
    geometry = geometry_in_volumes(network_geometry(model))
    whole = values.training.output_size_voxels  # random objects need room for the offsets of their input
    size = geometry.input_for_output(whole if random_objects else [1 if edge == 1 else 8 for edge in whole])
    output = geometry.output_size(size)
    (folder / "data.json").touch()
    return load_training_config(
        [path],
        [
            *updates,
            *([] if random_objects else [f"training.data={folder}/data.json"]),
            *(f"directories.runs={folder}", "seed=1"),
            *(f"training.input_size_voxels={list(size)}", f"training.output_size_voxels={list(output)}"),
            *("training.iterations=1", "training.save_every=1", "training.snapshot.every=0", "training.image_every=0"),
            *("training.precache.num_workers=0", "torch.device=cpu", "torch.num_threads=1"),
        ],
    )
