"""Voxel metrics against scipy's definitions and counting by hand."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from incasem_like.errors import DataError
from incasem_like.evaluation import ConfusionCounts, voxel_scores

SHAPE = (6, 7, 8)


@pytest.fixture
def block():
    generator = np.random.default_rng(7)
    labels = generator.integers(0, 3, SHAPE).astype(np.uint8)
    logits = generator.normal(size=(3, *SHAPE)) + 1.5 * (np.arange(3)[:, None, None, None] == labels)
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)
    valid = (generator.random(SHAPE) > 0.3).astype(np.uint8)
    return probabilities, labels, valid


def by_hand(probabilities, labels, valid):
    """The definitions, one class at a time, with scipy's dissimilarities."""
    expected, kept = {}, valid != 0
    decided = probabilities.argmax(axis=0)[kept]
    for index in range(len(probabilities)):
        predicted, target = (probabilities[index] >= 0.5)[kept], (labels == index)[kept]
        expected[f"dice_class_{index}"] = 1 - pdist(np.stack([predicted, target]), "dice")[0]
        expected[f"jaccard_class_{index}"] = 1 - pdist(np.stack([predicted, target]), "jaccard")[0]
        right = sum(1 for a, b in zip(decided, target, strict=True) if a == index and b)
        expected[f"precision_{index}"] = right / (decided == index).sum()
        expected[f"recall_{index}"] = right / target.sum()
    return expected


def test_scores_agree_with_scipy_on_valid_voxels(block):
    assert voxel_scores(*block, num_classes=3) == pytest.approx(by_hand(*block), abs=1e-12)


def test_blocks_in_any_split_add_up_to_the_whole(block):
    probabilities, labels, valid = block
    streamed, parts = ConfusionCounts(3), []
    for start, stop in ((4, 6), (0, 1), (1, 4)):
        part = ConfusionCounts(3)
        for counts in (streamed, part):
            counts.update(probabilities[:, start:stop], labels[start:stop], valid[start:stop])
        parts.append(part)
    whole = voxel_scores(*block, num_classes=3)
    assert streamed.scores() == whole
    assert ConfusionCounts.merged(parts).scores() == whole
    assert (parts[0] + parts[1]).total == parts[0].total + parts[1].total


def test_every_valid_voxel_is_counted_once_per_class(block):
    counts = ConfusionCounts(3)
    counts.update(*block)
    assert (counts.tp + counts.fp + counts.fn + counts.tn == np.count_nonzero(block[2])).all()
    assert counts.confusion.sum() == counts.total == np.count_nonzero(block[2])


def test_a_class_map_scores_as_its_one_hot_probabilities(block):
    probabilities, labels, valid = block
    decided = probabilities.argmax(axis=0).astype(np.uint8)
    one_hot = (decided[None] == np.arange(3)[:, None, None, None]).astype(np.float32)
    assert voxel_scores(decided, labels, valid, num_classes=3) == voxel_scores(one_hot, labels, valid, num_classes=3)


def test_the_threshold_is_inclusive():
    probabilities = np.full((2, 1, 1, 4), 0.5, dtype=np.float32)
    counts = ConfusionCounts(2)
    counts.update(probabilities, np.array([[[0, 0, 1, 1]]]))
    assert counts.predicted.tolist() == [4, 4]


def test_uint8_probabilities_are_read_as_scaled_by_255():
    levels = np.array([126, 127, 128, 255], dtype=np.uint8).reshape(1, 1, 4)
    counts = ConfusionCounts(2)
    counts.update(np.stack([255 - levels, levels]), np.ones((1, 1, 4), dtype=np.uint8))
    assert counts.predicted.tolist() == [2, 2]


def test_a_class_in_neither_is_undefined_not_a_crash():
    empty = np.zeros((2, 2, 2), dtype=np.uint8)
    scores = voxel_scores(empty, empty, num_classes=2)
    assert all(math.isnan(scores[name]) for name in ("dice_class_1", "jaccard_class_1", "precision_1", "recall_1"))
    assert scores["dice_class_0"] == scores["precision_0"] == 1.0


def test_a_class_on_one_side_only_scores_zero():
    empty, full = np.zeros((2, 2, 2), dtype=np.uint8), np.ones((2, 2, 2), dtype=np.uint8)
    missed, invented = voxel_scores(empty, full, num_classes=2), voxel_scores(full, empty, num_classes=2)
    assert missed["dice_class_1"] == missed["recall_1"] == 0.0
    assert math.isnan(missed["precision_1"])
    assert invented["jaccard_class_1"] == invented["precision_1"] == 0.0


def test_a_block_without_a_valid_voxel_adds_nothing(block):
    probabilities, labels, _ = block
    counts = ConfusionCounts(3)
    counts.update(probabilities, labels, np.zeros(SHAPE, dtype=np.uint8))
    assert counts.total == 0
    assert all(math.isnan(value) for value in counts.scores().values())


def test_names_carry_the_suffix():
    scores = ConfusionCounts(1).scores("_ds_4")
    assert list(scores) == ["dice_class_0_ds_4", "jaccard_class_0_ds_4", "precision_0_ds_4", "recall_0_ds_4"]


def test_a_label_beyond_the_classes_is_named(block):
    probabilities, labels, _ = block
    with pytest.raises(DataError, match="Found label 9, but there are 3 classes"):
        ConfusionCounts(3).update(probabilities, np.where(labels == 2, 9, labels))


def test_shapes_that_do_not_belong_together_are_refused(block):
    probabilities, labels, valid = block
    for arguments in ((probabilities[:, 1:], labels), (probabilities[:2], labels), (probabilities, labels, valid[1:])):
        with pytest.raises(ValueError, match=r"match|channels"):
            ConfusionCounts(3).update(*arguments)
