import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from incasem_like.targets import targets_of
from incasem_like.training.log import TrainingLog
from incasem_like.training.tensorboard import TensorBoardLog
from incasem_like.training.validation import EntryMeasurement, Validator
from incasem_like.volumes import Roi, open_volume

ORIGIN = (4, 0, -2)
SHAPE = (12, 10, 14)


class FakeRegion:
    """A region whose arrays are in memory; it begins at ORIGIN."""

    def __init__(self, name: str, seed: int, classes: int) -> None:
        random = np.random.default_rng(seed)
        self.name, self.roi, self.voxel_size = name, Roi(ORIGIN, SHAPE), (4.6, 4.0, 4.0)
        self.raw_roi, self.raw = self.roi, np.zeros(0, dtype=np.float32)
        self.weights = None
        self.offset = (4 * 4.6 + 1.3, 0.0, -2 * 4.0)  # between voxels
        self.raw_array = random.random(SHAPE).astype(np.float32)
        self.labels = random.integers(0, classes, SHAPE).astype(np.uint8)
        self.mask = (random.random(SHAPE) > 0.2).astype(np.uint8)
        self.metric_mask = self.mask * (random.random(SHAPE) > 0.3).astype(np.uint8)

    def _cut(self, array: Any, roi: Roi) -> Any:
        return array[tuple(slice(b - o, e - o) for b, e, o in zip(roi.begin, roi.end, ORIGIN, strict=True))]

    def read_raw(self, roi: Roi, outside: str = "error") -> Any:
        return self._cut(self.raw_array, roi)

    def read_labels(self, roi: Roi) -> Any:
        return self._cut(self.labels, roi)

    def read_mask(self, roi: Roi) -> Any:
        return self._cut(self.mask, roi)

    def read_metric_mask(self, roi: Roi) -> Any:
        return self._cut(self.metric_mask, roi)

    def instance_dtype(self, class_id: int) -> Any:
        return self.labels.dtype

    def read_instances(self, class_id: int, roi: Roi) -> Any:
        return self.read_labels(roi) * (self.read_labels(roi) == class_id)


class FakePredictor:
    """Predicts each voxel from its raw value alone, in tiles of 5 voxels."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def whole(self, raw: Any) -> Any:
        logits = np.stack([np.sin(raw * (index + 1) * 9) * 3 for index in range(self.classes)])
        exponents = np.exp(logits)
        return (exponents / exponents.sum(axis=0)).astype(np.float32)

    def tiles(self, roi: Roi) -> list[Roi]:
        ranges = [range(begin, end, 5) for begin, end in zip(roi.begin, roi.end, strict=True)]
        return [Roi((z, y, x), (5, 5, 5)).intersect(roi) for z in ranges[0] for y in ranges[1] for x in ranges[2]]

    def predict(self, read: Callable[[Roi], Any], roi: Roi, origin: Any) -> Iterator[tuple[Roi, Any]]:
        for tile in self.tiles(roi):
            yield tile, self.whole(read(tile))


@pytest.fixture
def make_validator(make_config: Callable[..., Any], fake_run: Any, tmp_path: Path) -> Callable[..., Validator]:
    def make(regions: list[FakeRegion], classes: int = 3, **changes: Any) -> Validator:
        if "targets" not in changes:
            balance = {"clipmin": 0.1, "clipmax": 0.5}
            changes["loss"] = {"weight": [1.0, 2.0, 0.5][:classes], "balance_labels": balance}
        config = make_config(data={"num_classes": classes}, **changes)
        return Validator(
            config,
            regions,  # type: ignore[arg-type]
            network=torch.nn.Identity(),
            predictor=FakePredictor(config.model.num_fmaps_out),  # type: ignore[arg-type]
            log=TrainingLog(config, fake_run, TensorBoardLog(tmp_path / "tensorboard")),
            snapshots=tmp_path / "snapshots",
        )

    return make


def expected_loss(region: FakeRegion, predictor: FakePredictor, weight: list[float]) -> float:
    """Definition, per tile scales written out: 1 / (C * clipped share), over the sum of all scales."""
    total = scales = 0.0
    for tile in predictor.tiles(region.roi):
        probabilities = torch.from_numpy(predictor.whole(region.read_raw(tile))).double()
        labels, mask = region.read_labels(tile).astype(np.int64), region.read_mask(tile).astype(bool)
        scale = np.zeros(labels.shape)
        for index in range(len(weight)):
            share = (labels[mask] == index).mean()
            scale[(labels == index) & mask] = 1 / (len(weight) * np.clip(share, 0.1, 0.5))
        entropy = functional.nll_loss(
            probabilities.log()[None], torch.from_numpy(labels)[None], torch.tensor(weight).double(), reduction="none"
        )
        total += float((entropy[0].numpy() * scale).sum())
        scales += scale.sum()
    return total / scales


def test_streamed_scores_equal_those_of_the_whole_region(
    make_validator: Callable[..., Validator], fake_run: Any
) -> None:
    regions = [FakeRegion("first", 1, 3), FakeRegion("second", 2, 3)]
    means = make_validator(regions).run(20, lambda: False)
    assert means is not None
    found_dice = []
    for index, region in enumerate(regions):
        probabilities = FakePredictor(3).whole(region.raw_array)
        loss = fake_run.values(f"loss_val_ds_{index}_type_0")[20]
        assert loss == pytest.approx(expected_loss(region, FakePredictor(3), [1.0, 2.0, 0.5]), rel=1e-5)
        valid = region.metric_mask.astype(bool)
        for label in range(3):
            predicted, target = probabilities[label][valid] >= 0.5, region.labels[valid] == label
            dice = 2 * (predicted & target).sum() / (predicted.sum() + target.sum())
            assert fake_run.values(f"dice_class_{label}_validation_ds_{index}")[20] == pytest.approx(dice)
            chosen = probabilities.argmax(axis=0)[valid] == label
            precision = (chosen & target).sum() / chosen.sum()
            assert fake_run.values(f"precision_class_{label}_validation_ds_{index}")[20] == pytest.approx(precision)
        found_dice.append(fake_run.values(f"dice_class_1_validation_ds_{index}")[20])
    assert means["dice_class_1"] == pytest.approx(np.mean(found_dice))
    assert fake_run.values("dice_class_1")[20] == means["dice_class_1"]
    assert means["loss"] == pytest.approx(np.mean([fake_run.values(f"loss_val_ds_{k}_type_0")[20] for k in (0, 1)]))


def test_a_class_that_is_nowhere_has_no_score_and_no_part_in_the_mean(
    make_validator: Callable[..., Validator], fake_run: Any
) -> None:
    region = FakeRegion("empty", 1, 3)
    region.metric_mask[:] = 0
    means = make_validator([region, FakeRegion("full", 2, 3)]).run(20, lambda: False)
    assert fake_run.values("dice_class_1_validation_ds_0") == {}
    assert means is not None
    assert means["dice_class_1"] == fake_run.values("dice_class_1_validation_ds_1")[20]


def test_a_fully_masked_entry_has_an_undefined_loss(make_config: Callable[..., Any]) -> None:
    measured = EntryMeasurement(targets_of(make_config()))
    block = np.zeros((2, 2, 2), dtype=np.uint8)
    made = [(block, block.astype(np.float32))]
    measured.add(np.full((2, 2, 2, 2), 0.5, dtype=np.float32), made, block)
    assert math.isnan(measured.loss)


def test_a_probability_of_zero_gives_a_finite_loss(make_config: Callable[..., Any]) -> None:
    measured = EntryMeasurement(targets_of(make_config()))
    certain = np.stack([np.zeros((2, 2, 2)), np.ones((2, 2, 2))]).astype(np.float32)
    made = [(np.zeros((2, 2, 2), dtype=np.uint8), np.ones((2, 2, 2), dtype=np.float32))]
    measured.add(certain, made, np.ones((2, 2, 2)))
    assert 80 < measured.loss < 100


def test_each_of_several_targets_is_measured_on_its_channels(
    make_validator: Callable[..., Validator], fake_run: Any
) -> None:
    """Three classes; the fourth channel is the affinity to the previous voxel along x."""
    targets = [
        {"type": "classes", "loss": {"type": "cross_entropy_scaling", "weight": [1, 2, 0.5]}, "weight": 0.5},
        {"type": "affinities", "offsets": [[0, 0, -1]], "balance": False},
    ]
    region = FakeRegion("first", 1, 3)
    found = make_validator([region], targets=targets).run(20, lambda: False)
    assert found is not None
    values = FakePredictor(4).whole(region.raw_array)[3]
    ids, mask = region.labels, region.mask.astype(bool)
    same = np.zeros(ids.shape, bool)
    same[..., 1:] = (ids[..., 1:] == ids[..., :-1]) & (ids[..., 1:] > 0)
    known = np.zeros(ids.shape, bool)
    known[..., 1:] = mask[..., 1:] | mask[..., :-1]
    counted = known & region.metric_mask.astype(bool)
    predicted = values >= 0.5
    dice = 2 * (predicted & same)[counted].sum() / (predicted[counted].sum() + same[counted].sum())
    entropy = -np.log(np.where(same, values, 1 - values))
    assert found["affinities_dice"] == pytest.approx(dice)
    assert found["affinities_bce"] == pytest.approx(entropy[counted].mean(), rel=1e-5)
    assert found["loss_affinities"] == pytest.approx(entropy[known].mean(), rel=1e-5)
    assert found["loss"] == pytest.approx(0.5 * found["loss_classes"] + found["loss_affinities"])
    assert fake_run.values("affinities_dice_validation_ds_0")[20] == found["affinities_dice"]
    assert "dice_class_2" in found


@pytest.mark.parametrize("tiles_before", [1, 18, 30])
def test_stopping_gives_no_result_and_writes_no_score(
    make_validator: Callable[..., Validator], fake_run: Any, tmp_path: Path, tiles_before: int
) -> None:
    answers = itertools.chain([False] * tiles_before, itertools.repeat(True))
    regions = [FakeRegion("first", 1, 3), FakeRegion("second", 2, 3)]  # of 18 tiles each
    assert make_validator(regions).run(20, lambda: next(answers)) is None
    assert fake_run.scalars == []
    assert not (tmp_path / "tensorboard").exists()


def test_the_network_is_back_in_training_mode(make_validator: Callable[..., Validator]) -> None:
    validator = make_validator([FakeRegion("first", 1, 3)])
    validator._network.train()
    validator.run(20, lambda: False)
    assert validator._network.training


def test_snapshots_come_every_so_many_validations(make_validator: Callable[..., Validator], tmp_path: Path) -> None:
    region = FakeRegion("first", 1, 3)
    validator = make_validator([region], validation={"validate_every": 10, "snapshot": {"every": 2}})
    for iteration in (10, 20, 30):
        validator.run(iteration, lambda: False)
    assert [path.name for path in (tmp_path / "snapshots" / "first").iterdir()] == ["20.zarr"]
    container = tmp_path / "snapshots" / "first" / "20.zarr"
    predictions, labels = open_volume(container, "predictions"), open_volume(container, "labels")
    assert labels.voxel_size == (4.6, 4.0, 4.0)
    assert labels.roi == region.roi
    assert {volume.offset for volume in (labels, predictions)} == {region.offset}
    np.testing.assert_array_equal(labels.read(), region.labels)
    expected = np.rint(FakePredictor(3).whole(region.raw_array) * 255)
    np.testing.assert_array_equal(predictions.read(), expected)
    assert predictions.complete


def test_images_of_each_entry_reach_tensorboard(make_validator: Callable[..., Validator], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    validator = make_validator([FakeRegion("first", 1, 3)])
    validator.run(20, lambda: False)
    validator.log.tensorboard.__exit__(None, None, None)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "validation" / "first"))
    events.Reload()
    assert "ortho_slices" in events.Tags()["images"]
    assert {"loss_0", "dice_class_1", "recall_class_2"} <= set(events.Tags()["scalars"])
