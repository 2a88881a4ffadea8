"""What a training could never learn from is found before its first iteration, by a look at a few blocks."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from incasem_like.config import DataConfig, DataEntry
from incasem_like.errors import ConfigError, DataError
from incasem_like.samples import open_regions
from incasem_like.training import learnable
from incasem_like.training.learnable import check_training_data, look_into, warn_of_content
from incasem_like.volumes import Volume

SHAPE = (12, 8, 8)
VARIED = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
ZERO, ONE = np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)
HALF = (np.arange(12) < 6).astype(np.uint8)[:, None, None] * ONE


class Data:
    """A container, and regions in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entries = folder, list[DataEntry]()
        self.root = zarr.open_group(str(folder / "c.zarr"), mode="w")

    def add(self, name: str, *, raw: Any = VARIED, mask: Any = None, metric: Any = None, **labels: Any) -> None:
        """Add an entry; labels by name, ``er_1`` is of class 1; an array of None is on no disk: 0 everywhere."""
        stored = {"raw": raw, "mask": mask, "metric": metric, **labels}
        for dataset, array in stored.items():
            if array is not None:
                made = self.root.create_dataset(f"{name}/{dataset}", data=array, chunks=(4, 4, 4))
                made.attrs.update(resolution=[5, 5, 5], offset=[0, 0, 0])
        optional = {} if mask is None else {"mask": f"{name}/mask"}
        if metric is not None:
            optional["metric_masks"] = [f"{name}/metric"]
        self.entries.append(
            DataEntry(
                name=name,
                file=self.folder / "c.zarr",
                voxel_size=(5, 5, 5),
                raw=f"{name}/raw",
                labels={f"{name}/{label}": int(label[-1]) for label in labels},
                **optional,
            )
        )

    def regions(self, num_classes: int = 2, factor: int = 1) -> Any:
        config = DataConfig(path=self.folder / "data.json", entries=tuple(self.entries), text="{}")
        stated = {"num_classes": num_classes, "voxel_size": (5, 5, 5), "downsample_factor": factor}
        return open_regions(config, need_labels=True, **stated)


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


@pytest.fixture
def check(data: Data, make_config: Any, caplog: pytest.LogCaptureFixture) -> Any:
    """Check the data as those of a training; gives the warnings."""

    def check(num_classes: int = 2, weight: tuple[float, ...] | None = None, factor: int = 1) -> list[str]:
        config = make_config(
            data={"num_classes": num_classes}, model={"num_fmaps_out": num_classes},
            loss={"weight": weight or (1.0,) * num_classes},
        )  # fmt: skip
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_training_data(config, data.regions(num_classes, factor))
        return [record.getMessage() for record in caplog.records]

    return check


def test_data_to_learn_from_pass_in_silence(data: Data, check: Any) -> None:
    data.add("a", mask=HALF * 255, er_1=VARIED > 128)
    assert check() == []
    assert check(factor=2) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mask": ZERO, "er_1": HALF}, "The mask of training.data is 0 everywhere in a, b, so nothing can be learnt"),
        ({"er_1": ZERO}, "Every voxel of training.data that counts is background in a, b, so nothing can be learnt"),
        ({"er_1": ONE}, "Every voxel of training.data that counts is class 1 in a, b, so nothing can be learnt"),
        ({"mask": HALF, "er_1": 1 - HALF}, "Every voxel of training.data that counts is background in a, b"),
        ({"raw": ONE * 51, "er_1": HALF}, "The raw of training.data is 51 everywhere in a, b, so nothing"),
        ({"raw": ONE * np.float32(0.5), "er_1": HALF}, "The raw of training.data is 0.5 everywhere in a, b"),
        ({"raw": ONE * np.float32(np.nan), "er_1": HALF}, "a/raw of a holds floats from nan to nan"),
        ({"er_1": HALF.astype("i4") - 1}, r"a/er_1 of a holds the label -1 at z \d+, y \d, x \d"),
        ({"mask": HALF.astype("i1") - 1, "er_1": HALF}, r"a/mask of a holds the label -1 at z \d+, y \d, x \d"),
    ],
)
def test_data_that_teach_nothing_are_one_sentence(arrays: dict[str, Any], message: str, data: Data, check: Any) -> None:
    for name in ("a", "b"):
        data.add(name, **arrays)
    with pytest.raises(DataError, match=message):
        check()


def test_raw_without_a_chunk_is_refused(data: Data, check: Any) -> None:
    data.add("a", er_1=HALF)
    made = data.root.create_dataset("a/raw", shape=SHAPE, chunks=(4, 4, 4), dtype="u1", overwrite=True)
    made.attrs.update(resolution=[5, 5, 5], offset=[0, 0, 0])
    with pytest.raises(DataError, match=r"a/raw of a has no chunk on disk, so every voxel is the fill value"):
        check()


def test_an_entry_that_teaches_nothing_is_a_warning_where_another_one_does(data: Data, check: Any) -> None:
    data.add("good", er_1=HALF, golgi_2=VARIED > 128)
    data.add("masked", mask=ZERO, er_1=HALF, golgi_2=HALF)
    data.add("empty", er_1=HALF, golgi_2=ZERO)
    data.add("flat", raw=ONE, er_1=ZERO, golgi_2=HALF)
    remedy = 'check its datasets, "offset" and "shape".'
    assert check(3) == [
        "Classes that entries of training.data name labels for are missing: empty (no class 2), flat (no class 1).",
        f"The mask of masked is 0 everywhere: {remedy}",
        f"The raw of flat is 1 everywhere: {remedy}",
    ]


def test_a_class_that_is_nowhere_is_refused_unless_it_has_no_weight(data: Data, check: Any) -> None:
    for name in ("a", "b"):
        data.add(name, er_1=HALF, golgi_2=ZERO)
    sentence = r"^No voxel of training\.data that counts belongs to class 2 \(looked at: a, b\), so it cannot be learnt"
    with pytest.raises(DataError, match=sentence):
        check(3)
    assert check(3, (1, 1, 0)) == [
        "No voxel of training.data that counts belongs to class 2 (looked at: a, b), so it can be neither learnt nor "
        'measured: check "labels", masks, offset and shape.'
    ]


def test_a_class_that_is_nowhere_may_be_known_from_the_training_it_starts_from(
    data: Data, make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data.add("a", er_1=HALF, golgi_2=ZERO)
    sizes = {"data": {"num_classes": 3}, "loss": {"weight": [1, 1, 1]}}
    with caplog.at_level(logging.WARNING):
        check_training_data(make_config(training={"start_from": 4}, **sizes), data.regions(3))
    assert "belongs to class 2" in caplog.text
    independent = {"data": {"num_classes": 3}, "targets": [{"type": "classes", "exclusive": False}]}
    with pytest.raises(DataError, match=r"belongs to class 2 .* check \"labels\", masks, offset and shape\.$"):
        check_training_data(make_config(**independent), data.regions(3))


def test_weights_that_leave_one_class_teach_nothing(data: Data, check: Any) -> None:
    data.add("a", er_1=HALF, golgi_2=ZERO)
    for weight in ((0, 0, 0), (1, 0, 1)):
        with pytest.raises(ConfigError, match=r"leaves less than two of the classes \[0, 1\] of training.data"):
            check(3, weight)
    assert len(check(3, (1, 1, 0))) == 1


def test_validation_without_foreground_where_it_is_measured_is_a_warning(
    data: Data, caplog: pytest.LogCaptureFixture
) -> None:
    data.add("a", metric=1 - HALF, er_1=HALF)
    with caplog.at_level(logging.WARNING):
        warn_of_content("validation.data", look_into(data.regions(), measured=True), 2)
    assert "No voxel of validation.data that counts belongs to class 1 (looked at: a)" in caplog.text


def test_no_more_is_read_than_it_takes_and_no_more_is_claimed_than_was_read(
    data: Data, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learnable, "VOXELS_AT_ONCE", 64)  # a chunk
    read, original = [], Volume.read

    def counting(volume: Volume, roi: Any = None, **options: Any) -> Any:
        read.append((volume.dataset, roi.size))
        return original(volume, roi, **options)

    monkeypatch.setattr(Volume, "read", counting)
    data.add("mixed", er_1=VARIED > 128)
    assert check() == []
    assert read == [("mixed/er_1", 64), ("mixed/raw", 64)]
    data.entries.clear()
    data.add("empty", er_1=ZERO)
    monkeypatch.setattr(learnable, "MOST_VOXELS", 100)
    read.clear()
    assert ["looked at: a part of empty" in warning for warning in check()] == [True]
    assert read == [("empty/er_1", 64)] * 2 + [("empty/raw", 64)]
    data.entries.clear()
    data.add("signed", er_1=np.where(VARIED > 128, 1, 0).astype("i4"))
    monkeypatch.undo()
    assert check() == []


def config_of(make_config: Any, num_classes: int, *targets: dict[str, Any]) -> Any:
    return make_config(data={"num_classes": num_classes}, targets=list(targets))


def test_classes_that_overlap_everywhere_can_be_learnt_only_if_they_do_not_exclude_each_other(
    data: Data, make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data.add("a", er_1=HALF, golgi_2=HALF)
    with caplog.at_level(logging.WARNING):
        check_training_data(config_of(make_config, 3, {"type": "classes", "exclusive": False}), data.regions(3))
    assert caplog.messages == []
    with pytest.raises(DataError, match=r"Every voxel of training\.data that counts is background in a"):
        check_training_data(config_of(make_config, 3, {"type": "classes"}), data.regions(3))


def test_a_single_object_has_no_boundary_to_learn(data: Data, make_config: Any) -> None:
    data.add("a", er_1=ONE * 7)
    data.add("b", mask=HALF, er_1=np.where(HALF, 7, 3).astype(np.uint8))
    config = config_of(make_config, 2, {"type": "affinities"}, {"type": "boundaries"})
    with pytest.raises(DataError, match=r"^A single object fills all of training\.data that counts \(a, b\)"):
        check_training_data(config, data.regions())
    data.add("c", er_1=np.where(HALF, 7, 3).astype(np.uint8))
    check_training_data(config, data.regions())


def test_descriptors_of_single_sections_are_two_dimensional(data: Data, make_config: Any) -> None:
    data.add("a", er_1=HALF)
    data.entries[0] = data.entries[0].model_copy(update={"shape": (1, 8, 8), "offset": (5, 0, 0)})
    data.root["a/er_1"][5, :4] = 0
    with pytest.raises(ConfigError, match=r"lsd describes shapes in 3-D, .* one section deep: set per_section=true"):
        check_training_data(config_of(make_config, 2, {"type": "lsd"}), data.regions())
    check_training_data(config_of(make_config, 2, {"type": "lsd", "per_section": True}), data.regions())
