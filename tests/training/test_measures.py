"""Scores of targets, accumulated block by block, against their definitions on the whole."""

import math

import numpy as np
import pytest

from incasem_like.config.target_sections import parse_targets
from incasem_like.training.log import measure


def measured(options, values, target, counted):
    (made,) = parse_targets([options])
    accumulated = measure(made.resolved(3))
    for half in (slice(0, 2), slice(2, None)):
        accumulated.add(values[:, half], target[..., half, :, :], counted[..., half, :, :])
    scores = accumulated.scores()
    assert list(scores) == list(made.resolved(3).metrics)
    return scores


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_binary_scores_of_all_channels_and_of_groups(rng):
    offsets = [[-1, 0, 0], [0, -1, 0], [0, -3, 0]]
    values, target = rng.random((3, 5, 4, 4)).astype(np.float32), rng.integers(0, 2, (3, 5, 4, 4)).astype(np.uint8)
    counted = rng.random((3, 5, 4, 4)) > 0.3
    scores = measured({"type": "affinities", "offsets": offsets}, values, target, counted)
    for ending, channels in (("", [0, 1, 2]), ("_neighbours", [0, 1]), ("_long_range", [2])):
        kept = counted[channels]
        value, true = values[channels][kept], target[channels][kept] > 0
        both, either = (value >= 0.5) & true, (value >= 0.5) | true
        assert scores[f"affinities_jaccard{ending}"] == pytest.approx(both.sum() / either.sum())
        assert scores[f"affinities_dice{ending}"] == pytest.approx(2 * both.sum() / (both.sum() + either.sum()))
        assert scores[f"affinities_precision{ending}"] == pytest.approx(both.sum() / (value >= 0.5).sum())
        assert scores[f"affinities_recall{ending}"] == pytest.approx(both.sum() / true.sum())
        entropy = -np.log(np.where(true, value, 1 - value)).mean()
        assert scores[f"affinities_bce{ending}"] == pytest.approx(entropy, rel=1e-5)


def test_squared_errors_of_values_with_one_weight_for_all_channels(rng):
    values, target = rng.random((2, 10, 5, 4, 4)).astype(np.float32)
    counted = rng.random((1, 5, 4, 4)) > 0.5
    scores = measured("lsd", values, target, counted)
    errors = (values - target) ** 2
    assert scores["lsd_mse"] == pytest.approx(errors[:, counted[0]].mean(), rel=1e-5)
    assert scores["lsd_mse_variance"] == pytest.approx(errors[3:6, counted[0]].mean(), rel=1e-5)


def test_independent_classes_have_the_names_of_classes(rng):
    values, target = rng.random((2, 2, 5, 4, 4)).astype(np.float32)
    scores = measured({"type": "classes", "exclusive": False}, values, target > 0.5, np.ones((2, 5, 4, 4), bool))
    both = (values[1] >= 0.5) & (target[1] > 0.5)
    expected = 2 * both.sum() / ((values[1] >= 0.5).sum() + (target[1] > 0.5).sum())
    assert scores["dice_class_2"] == pytest.approx(expected)


@pytest.mark.parametrize("options", ["classes", "affinities", "lsd"])
def test_where_nothing_counts_all_scores_are_undefined(options):
    (made,) = parse_targets([options])
    channels = made.resolved(3).channels
    target = np.zeros((5, 4, 4) if options == "classes" else (channels, 5, 4, 4), np.uint8)
    scores = measured(options, np.zeros((channels, 5, 4, 4), np.float32), target, np.zeros(target.shape, bool))
    assert all(map(math.isnan, scores.values()))
