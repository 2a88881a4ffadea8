"""Threshold sweeps against comparing at one threshold after the other."""

import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.evaluation.thresholds import ThresholdSweep, threshold_range

SHAPE = (5, 6, 7)


def stored(values, dtype):
    return np.rint(values * 255).astype(np.uint8) if dtype == "uint8" else values.astype(dtype)


def counted_one_by_one(probabilities, target, valid, threshold, scale):
    predicted = (probabilities.astype(np.float64) / scale >= threshold) & (valid != 0)
    labelled = (target != 0) & (valid != 0)
    return [
        (predicted & labelled).sum(),
        (predicted & ~labelled).sum(),
        (~predicted & labelled).sum(),
        (~predicted & ~labelled & (valid != 0)).sum(),
    ]


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255), ("float16", 1), ("float32", 1), ("float64", 1)])
def test_counts_equal_those_of_single_comparisons(dtype, scale):
    generator = np.random.default_rng(3)
    probabilities = stored(generator.random(SHAPE), dtype)
    target, valid = generator.integers(0, 4, SHAPE), generator.integers(0, 2, SHAPE)
    thresholds = threshold_range(0.05, 0.95, 0.05)
    sweep = ThresholdSweep(thresholds, dtype, scale)
    for start in range(SHAPE[0]):
        sweep.update(probabilities[start], target[start], valid[start])
    found = np.stack([sweep.tp, sweep.fp, sweep.fn, sweep.tn], axis=1)
    expected = [counted_one_by_one(probabilities, target, valid, value, scale) for value in thresholds]
    assert found.tolist() == np.array(expected).tolist()


def test_a_stored_probability_reaches_the_threshold_it_was_stored_as():
    thresholds = threshold_range(0.0, 1.0, 0.1)
    for dtype, scale in (("float32", 1), ("float16", 1)):
        for index, value in enumerate(thresholds):
            sweep = ThresholdSweep(thresholds, dtype, scale)
            sweep.update(np.array([value], dtype=dtype), np.ones(1))
            assert sweep.tp.tolist() == [1] * (index + 1) + [0] * (10 - index)


def test_every_level_of_uint8_reaches_itself_and_none_above():
    thresholds = tuple(level / 255 for level in range(256))
    sweep = ThresholdSweep(thresholds, "uint8", 255)
    sweep.update(np.arange(256, dtype=np.uint8), np.ones(256))
    assert sweep.tp.tolist() == list(range(256, 0, -1))


def test_scores_by_hand():
    sweep = ThresholdSweep((0.25, 0.75), "float32")
    sweep.update(np.array([0.1, 0.5, 0.5, 0.9], dtype=np.float32), np.array([1, 1, 0, 1]))
    scores = sweep.scores()
    assert scores["jaccard"].tolist() == pytest.approx([2 / 4, 1 / 3])
    assert scores["dice"].tolist() == pytest.approx([4 / 6, 2 / 4])
    assert scores["precision"].tolist() == pytest.approx([2 / 3, 1.0])
    assert scores["recall"].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert sweep.best("dice").threshold == 0.25
    assert sweep.best("precision_recall").threshold == 0.25
    assert sweep.best("precision_recall").value == pytest.approx(4 / 3)


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 255), ("uint16", 65535), ("uint32", 1000), ("float32", 1)])
@pytest.mark.parametrize("number", [3, 200])
def test_few_and_many_thresholds_count_as_comparing_with_each_does(dtype, scale, number):
    generator = np.random.default_rng(1)
    values = (generator.random((9, 10, 11)) * scale).astype(dtype)
    target, valid = generator.integers(0, 2, (2, 9, 10, 11))
    sweep = ThresholdSweep(np.linspace(0, 1, number).tolist(), dtype, scale)
    sweep.update(values, target, valid)
    inside, labelled = valid != 0, target != 0
    for index, threshold in enumerate(sweep.thresholds):
        limit = np.float32(threshold) if dtype == "float32" else threshold
        predicted = (values if dtype == "float32" else values / scale) >= limit
        assert sweep.tp[index] == np.count_nonzero(predicted & labelled & inside)
        assert sweep.fp[index] == np.count_nonzero(predicted & ~labelled & inside)
    assert sweep.total == np.count_nonzero(inside)


def test_a_sweep_over_parts_adds_up():
    generator = np.random.default_rng(5)
    values, target = generator.random(100).astype(np.float32), generator.integers(0, 2, 100)
    whole, first, second = (ThresholdSweep((0.3, 0.6), "float32") for _ in range(3))
    whole.update(values, target)
    first.update(values[:30], target[:30])
    second.update(values[30:], target[30:])
    first.add_counts(second.counts)
    assert first.result("dice") == whole.result("dice")
    with pytest.raises(ValueError, match="same thresholds"):
        first.add_counts(ThresholdSweep((0.3,), "float32").counts)


def test_nothing_labelled_and_nothing_predicted_is_undefined():
    sweep = ThresholdSweep((0.5,), "float32")
    sweep.update(np.zeros(4, dtype=np.float32), np.zeros(4))
    assert sweep.best("jaccard") is None
    result = sweep.result("jaccard")
    assert result["jaccard"] == {"0.5": None}
    assert result["best"] is None
    assert result["voxels"] == 4


def test_not_a_number_reaches_no_threshold():
    sweep = ThresholdSweep((0.0, 0.5), "float32")
    sweep.update(np.array([np.nan, 1.0], dtype=np.float32), np.ones(2))
    assert sweep.tp.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((0.5, 0.5, 0.1), (0.5,)),
        ((0.1, 0.9, 0.1), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        ((0.0, 1.0, 0.3), (0.0, 0.3, 0.6, 0.9)),
    ],
)
def test_ranges_are_decimal_and_inclusive(bounds, expected):
    assert threshold_range(*bounds) == expected


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0.5, 0.6, 0.0), "threshold_step is 0,"),
        ((0.5, 0.6, -0.1), "threshold_step is -0.1"),
        ((0.5, 0.6, float("nan")), "threshold_step is nan"),
        ((0.6, 0.5, 0.1), "exchange them"),
        ((0.5, 50, 0.1), "from 0 to 1"),
    ],
)
def test_bad_ranges_get_one_sentence(bounds, message):
    with pytest.raises(InputError, match=message):
        threshold_range(*bounds)
