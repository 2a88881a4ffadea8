"""Probability maps on disk against labels on disk."""

from itertools import product

import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.evaluate import prepare_evaluation
from incasem_like.segmentation.threshold import ThresholdSegmentation, segment_as_run
from incasem_like.volumes import Coordinate, Roi, open_volume
from incasem_like.volumes.parts import aligned_parts

SHAPE = (9, 10, 11)


@pytest.fixture
def arrays():
    generator = np.random.default_rng(11)
    return {
        "prediction": generator.random(SHAPE).astype(np.float32),
        "labels": generator.integers(0, 3, SHAPE).astype(np.uint32) * 70_000,
        "mask": generator.integers(0, 2, SHAPE).astype(np.uint8) * 255,
        "metric_mask": generator.integers(0, 2, SHAPE).astype(np.uint8),
    }


def counts_at(threshold, arrays, inside=slice(None)):
    valid = (arrays["mask"] != 0) & (arrays["metric_mask"] != 0)
    predicted, labelled = arrays["prediction"][inside] >= np.float32(threshold), arrays["labels"][inside] != 0
    valid = valid[inside]
    return [(a & b & valid).sum() for a, b in product((predicted, ~predicted), (labelled, ~labelled))]


def sweep(evaluation, thresholds, **options):
    return evaluation.sweep(evaluation.task(thresholds), **options)[0]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_blocks_give_the_counts_of_the_whole(num_workers, arrays, make_volume, monkeypatch):
    monkeypatch.setattr("incasem_like.evaluation.evaluate.VOXELS_AT_ONCE", 64)
    monkeypatch.setattr("incasem_like.evaluation.evaluate.useful_workers", lambda wanted, _voxels: wanted)
    volumes = {name: make_volume(name, array) for name, array in arrays.items()}
    masks = [volumes["mask"], volumes["metric_mask"]]
    evaluation = prepare_evaluation(volumes["prediction"], volumes["labels"], masks, roi_padding=(1, 2, 3))
    swept = sweep(evaluation, (0.25, 0.5, 0.75), num_workers=num_workers)
    inside = (slice(1, -1), slice(2, -2), slice(3, -3))
    for index, threshold in enumerate(swept.thresholds):
        found = [int(counts[index]) for counts in (swept.tp, swept.fp, swept.fn, swept.tn)]
        assert found == counts_at(threshold, arrays, inside)


def test_labels_that_cover_more_are_read_at_the_right_place(arrays, make_volume):
    prediction = make_volume("prediction", arrays["prediction"][2:5, 3:8, 1:9], begin=(12, 13, 11))
    labels = make_volume("labels", arrays["labels"], begin=(10, 10, 10))
    swept = sweep(prepare_evaluation(prediction, labels), (0.5,))
    predicted, labelled = arrays["prediction"][2:5, 3:8, 1:9] >= 0.5, arrays["labels"][2:5, 3:8, 1:9] != 0
    assert swept.tp.tolist() == [(predicted & labelled).sum()]
    assert swept.total == 3 * 5 * 8


def test_uint8_maps_are_read_by_their_scale(arrays, make_volume):
    levels = np.rint(arrays["prediction"] * 255).astype(np.uint8)
    prediction, labels = make_volume("prediction", levels), make_volume("labels", arrays["labels"])
    swept = sweep(prepare_evaluation(prediction, labels), (0.2, 0.6))
    for index, threshold in enumerate(swept.thresholds):
        predicted = levels / 255 >= threshold
        assert swept.tp[index] == (predicted & (arrays["labels"] != 0)).sum()


def test_one_class_of_a_class_map(arrays, make_volume):
    classes = (arrays["labels"] // 70_000).astype(np.uint8)
    prediction, labels = make_volume("prediction", arrays["prediction"]), make_volume("labels", classes)
    swept = sweep(prepare_evaluation(prediction, labels, label_class=2), (0.0,))
    assert swept.tp.tolist() == [(classes == 2).sum()]


def test_a_segmentation_scores_as_one(arrays, make_volume, tmp_path):
    make_volume("prediction", arrays["prediction"])
    labels = make_volume("labels", arrays["labels"])
    threshold = ThresholdSegmentation(
        prediction_filename=str(tmp_path / "cell.zarr"), dataset="prediction", out_dataset="seg", threshold=0.7
    )
    segment_as_run(threshold, store=None)
    swept = sweep(prepare_evaluation(open_volume(tmp_path / "cell.zarr", "seg"), labels), (0.1, 0.5, 1.0))
    predicted, labelled = arrays["prediction"] >= np.float32(0.7), arrays["labels"] != 0
    assert swept.tp.tolist() == [(predicted & labelled).sum()] * 3
    assert swept.fp.tolist() == [(predicted & ~labelled).sum()] * 3
    perfect = make_volume("perfect", labelled)  # bool
    assert sweep(prepare_evaluation(perfect, labels), (0.5,)).scores()["dice"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("prediction", lambda a: (a["labels"] > 0).astype(np.uint8), "holds only 0 and 1 as uint8"),
        ("prediction", lambda a: a["prediction"] * 255, r"prediction holds .* but probabilities are stored as 0 to 1"),
        ("prediction", lambda a: np.where(a["labels"] > 0, np.nan, a["prediction"]), "prediction holds nan at z"),
        ("prediction", lambda a: a["labels"], "uint32 without a scale"),
        ("labels", lambda a: a["labels"].astype(np.float32), "labels holds float32, but labels and masks are integers"),
        ("labels", lambda a: a["labels"].astype(np.int32) - 1, "labels holds the label -1 at z"),
        ("mask", lambda a: a["prediction"], "mask holds float32, but labels and masks are integers"),
        ("mask", lambda a: a["mask"].astype(np.int16) - 1, "mask holds the label -1 at z"),
    ],
)
@pytest.mark.parametrize("label_class", [None, 1])
def test_values_that_mean_nothing_are_refused_and_not_measured(name, array, message, label_class, arrays, make_volume):
    arrays[name] = array(arrays)
    volumes = {name: make_volume(name, array) for name, array in arrays.items()}

    def measure():
        given = volumes["prediction"], volumes["labels"], [volumes["mask"]]
        return sweep(prepare_evaluation(*given, label_class=label_class), (0.5,))

    with pytest.raises(DataError, match=message):
        measure()


def test_labels_that_lack_a_part_name_the_part_that_fits(arrays, make_volume):
    prediction = make_volume("prediction", arrays["prediction"])
    labels = make_volume("labels", arrays["labels"][:, :, :6], begin=(0, 0, 5))
    with pytest.raises(
        DataError, match=r"labels covers z 0-8, y 0-9, x 5-10.*--intersect .* z 0-8, y 0-9, x 5-9"
    ) as error:
        prepare_evaluation(make_volume("small", arrays["prediction"][:, :, :10]), labels)
    assert "but z 0-8, y 0-9, x 0-9 is to be evaluated" in str(error.value)
    common = prepare_evaluation(prediction, labels, intersect=True)
    assert common.roi == Roi((0, 0, 5), (9, 10, 6))


def test_a_mask_must_cover_the_prediction_too(arrays, make_volume):
    prediction, labels = make_volume("prediction", arrays["prediction"]), make_volume("labels", arrays["labels"])
    mask = make_volume("mask", arrays["mask"][1:], begin=(1, 0, 0))
    with pytest.raises(DataError, match=r"/mask covers z 1-8"):
        prepare_evaluation(prediction, labels, [mask])
    assert prepare_evaluation(prediction, labels, [mask], roi_padding=(1, 0, 0)).roi.shape == (7, 10, 11)


def test_no_voxel_in_common_is_refused_even_when_intersecting(arrays, make_volume):
    prediction = make_volume("prediction", arrays["prediction"])
    labels = make_volume("labels", arrays["labels"], begin=(100, 0, 0))
    with pytest.raises(DataError, match="no voxel in common"):
        prepare_evaluation(prediction, labels, intersect=True)


def test_another_voxel_size_is_refused(arrays, make_volume):
    prediction = make_volume("prediction", arrays["prediction"])
    labels = make_volume("labels", arrays["labels"], voxel_size=(5.24, 4.0, 4.0))
    with pytest.raises(DataError, match=r"voxels of 5\.24 4 4 nm, but .* has 5 5 5 nm"):
        prepare_evaluation(prediction, labels)


@pytest.mark.parametrize(("padding", "message"), [((5, 0, 0), "leaves nothing"), ((0, -1, 0), "cannot be negative")])
def test_bad_padding_gets_one_sentence(padding, message, arrays, make_volume):
    prediction, labels = make_volume("prediction", arrays["prediction"]), make_volume("labels", arrays["labels"])
    with pytest.raises(InputError, match=message):
        prepare_evaluation(prediction, labels, roi_padding=padding)


def test_blocks_are_whole_chunks_and_tile_the_region(make_volume):
    volume = make_volume("prediction", np.zeros(SHAPE, dtype=np.uint8), begin=(3, 0, 7))
    roi = Roi((4, 1, 9), (7, 9, 8))
    covered = np.zeros(SHAPE, dtype=int)
    for block in aligned_parts(volume, roi, voxels=128):
        covered[(block - volume.roi.begin).to_slices()] += 1
        for position in ((block.begin - volume.roi.begin), (block.end - volume.roi.begin)):
            local = roi - volume.roi.begin
            on_grid = [v % 4 == 0 or v in (b, e) for v, b, e in zip(position, local.begin, local.end, strict=True)]
            assert all(on_grid)
    expected = np.zeros(SHAPE, dtype=int)
    expected[(roi - Coordinate(3, 0, 7)).to_slices()] = 1
    np.testing.assert_array_equal(covered, expected)


def test_labels_between_the_voxels_of_the_prediction_are_told_of(arrays, make_volume, caplog):
    prediction = make_volume("prediction", arrays["prediction"])
    labels = make_volume("labels", np.pad(arrays["labels"], 1), begin=(-0.6, -1, -1))
    assert prepare_evaluation(prediction, labels).roi == prediction.roi
    (record,) = caplog.records
    assert "labels lies a fraction of a voxel beside" in record.getMessage()
