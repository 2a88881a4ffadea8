from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import zarr
from torch.utils.data import default_collate

from incasem_like.config.target_sections import parse_targets
from incasem_like.training.log import Step
from incasem_like.training.snapshots import SampleShow, to_bytes, write_training_snapshot
from incasem_like.volumes import open_volume


def sample() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "raw": random.uniform(-1, 1, (1, 10, 10, 10)).astype(np.float32),
        "labels": random.integers(0, 2, (6, 6, 6)).astype(np.uint8),
        "mask": np.ones((6, 6, 6), dtype=np.uint8),
        "targets": {"classes": {"target": np.zeros((6, 6, 6)), "weight": random.random((6, 6, 6)).astype(np.float32)}},
    }


def learnt(*names: str) -> Any:
    return tuple(target.resolved(2) for target in parse_targets(names))


def test_bytes_are_rounded_and_clipped() -> None:
    np.testing.assert_array_equal(to_bytes(np.array([-0.1, 0, 0.5, 1, 1.2])), [0, 0, 128, 255, 255])


def test_zarr_python_reads_a_snapshot_with_everything_in_its_place(tmp_path: Path) -> None:
    made = sample()
    probabilities = np.random.default_rng(1).random((2, 6, 6, 6)).astype(np.float32)
    write_training_snapshot(tmp_path / "7.zarr", made, [probabilities], learnt("classes"), (40, 4.6, 4.6), 0.25)
    group: Any = zarr.open(str(tmp_path / "7.zarr"), mode="r")
    np.testing.assert_array_equal(group["raw"][:], np.rint((made["raw"][0] * 0.5 + 0.5) * 255))
    np.testing.assert_array_equal(group["labels"][:], made["labels"])
    np.testing.assert_array_equal(group["loss_scalings"][:], made["targets"]["classes"]["weight"])
    np.testing.assert_array_equal(group["predictions"][:], np.rint(probabilities * 255))
    assert list(group["raw"].attrs["offset"]) == [0, 0, 0]
    assert list(group["labels"].attrs["offset"]) == [80, 9.2, 9.2]
    assert list(group["predictions"].attrs["resolution"])[-3:] == [40, 4.6, 4.6]
    assert group["labels"].attrs["loss"] == 0.25
    assert all(group[name].attrs["complete"] for name in group.array_keys())


def test_several_targets_have_a_dataset_each_with_what_describes_it(tmp_path: Path) -> None:
    made, targets = sample(), learnt("classes", "affinities")
    affinities = np.random.default_rng(2).integers(0, 2, (3, 6, 6, 6)).astype(np.uint8)
    made["targets"]["affinities"] = {"target": affinities, "weight": np.ones((3, 6, 6, 6), np.float32)}
    made["instances"] = np.full((6, 6, 6), 2**40)
    predicted = [np.zeros((2, 6, 6, 6), np.float32), affinities.astype(np.float32)]
    write_training_snapshot(tmp_path / "7.zarr", made, predicted, targets, (40, 4.6, 4.6), 0.25)
    group: Any = zarr.open(str(tmp_path / "7.zarr"), mode="r")
    np.testing.assert_array_equal(group["targets/affinities"][:], affinities)
    np.testing.assert_array_equal(group["predictions/affinities"][:], affinities * 255)
    assert group["predictions/affinities"].attrs["offsets"] == [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    assert group["predictions/classes"].attrs["channel_names"] == ["background", "class_1"]
    assert (group["instances"][:] == 2**40).all()


def test_samples_are_shown_when_due(tmp_path: Path, make_config: Any) -> None:
    images: list[tuple[str, str, int]] = []
    tensorboard: Any = SimpleNamespace(image=lambda part, tag, image, step: images.append((part, tag, step)))
    config = make_config(training={"image_every": 2, "snapshot": {"every": 3}})
    show = SampleShow(config, tensorboard, tmp_path)
    made = sample()
    of_classes = {key: torch.from_numpy(array)[None] for key, array in made.pop("targets")["classes"].items()}
    batch = {name: torch.from_numpy(array)[None] for name, array in made.items()} | {"targets": {"classes": of_classes}}
    for iteration in range(1, 7):
        show(Step(iteration, 0.5, 1e-3, batch, torch.zeros((1, 2, 6, 6, 6)), 1.0))
    assert images == [("training", "ortho_slices", step) for step in (2, 4, 6)]
    assert sorted(path.name for path in (tmp_path / "training").iterdir()) == ["3.zarr", "6.zarr"]


def test_the_sample_that_made_an_update_fail_is_kept_with_its_broken_voxels(tmp_path: Path, make_config: Any) -> None:
    show = SampleShow(make_config(), SimpleNamespace(), tmp_path)  # type: ignore[arg-type]
    made, logits = [sample(), sample()], torch.zeros((2, 2, 6, 6, 6))
    made[1]["raw"][0, 4, 5, 6] = np.nan
    logits[1, 0, 2, 3, 4] = torch.nan
    batch = default_collate(made)
    kept = show.keep(Step(5, float("nan"), 1e-3, batch, logits, 1.0))
    assert kept == tmp_path / "not_finite" / "5" / "sample_1.zarr"
    assert [path.name for path in kept.parent.iterdir()] == ["sample_1.zarr"]
    volume = open_volume(kept, "raw")  # as the viewer opens it
    raw = volume.read()
    np.testing.assert_array_equal(np.isnan(raw), np.isnan(made[1]["raw"][0]))
    np.testing.assert_allclose(raw[0], made[1]["raw"][0, 0] * 0.5 + 0.5)
    group: Any = zarr.open(str(kept), mode="r")
    assert np.isnan(group["predictions"][:, 2, 3, 4]).all()
    assert group["raw"].attrs["loss"] == "nan"
    first = show.keep(Step(6, float("inf"), 1e-3, batch, torch.zeros((2, 2, 6, 6, 6)), 1.0))
    assert sorted(path.name for path in first.parent.iterdir()) == ["sample_0.zarr", "sample_1.zarr"]
