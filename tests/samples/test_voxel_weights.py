"""Weights of voxels from a dataset: 0 is a mask, 2 doubles the gradient, and others are refused in one sentence."""

import numpy as np
import pytest
import torch

from incasem_like.errors import DataError
from incasem_like.samples import TrainingSamples, open_regions

OFFSETS = [[-1, 0, 0], [0, 0, -3]]
TARGETS = [
    {"type": "affinities", "offsets": OFFSETS, "loss": "mse"},
    {"type": "lsd", "sigma": 15, "background": "zero"},
    {"type": "boundaries"},
    {"type": "distance", "scale": 10},
    {"type": "classes"},
]
PLACE = {"offset": (6, 6, 6), "shape": (24, 26, 28)}


@pytest.fixture
def weighted(cell):
    """Weights of 0, 1 and 2 in blocks of 4 voxels, as floats and as bytes; and the mask of those above 0."""
    blocks = np.random.default_rng(5).integers(0, 3, (10, 11, 12))
    weights = np.kron(blocks, np.ones((4, 4, 4))).astype(np.float32)
    cell.put("volumes/weights", weights)
    cell.put("volumes/bytes", (weights * 100).astype(np.uint8))
    cell.root["volumes/bytes"].attrs["scale"] = 100
    cell.put("volumes/some", (weights > 0).astype(np.uint8))
    cell.put("volumes/some_weights", (weights > 0).astype(np.float16))
    return cell


def test_a_weight_of_0_is_a_mask_and_of_1_nothing(weighted, make_settings, full_augmentation):
    settings = make_settings(targets=TARGETS, augmentation=full_augmentation, reject={"min_mask_fraction": 0.3})
    masked, other = (
        TrainingSamples(weighted.config(weighted.entry(**PLACE, **names)), settings, seed=3)
        for names in ({"mask": "volumes/some"}, {"voxel_weights": "volumes/some_weights"})
    )
    for index in range(3):
        expected, found = masked[index], other[index]
        np.testing.assert_array_equal(found["mask"], expected["mask"])
        for name, made in expected["targets"].items():
            np.testing.assert_array_equal(found["targets"][name]["target"], made["target"], err_msg=name)
            np.testing.assert_array_equal(found["targets"][name]["weight"], made["weight"], err_msg=name)


@pytest.mark.parametrize("dataset", ["volumes/weights", "volumes/bytes"])
def test_a_weight_of_2_doubles_the_gradient(weighted, make_settings, dataset):
    settings = make_settings(targets=TARGETS[:2], reject={"min_mask_fraction": 0.3})
    plain, doubled = (
        TrainingSamples(weighted.config(weighted.entry(**PLACE, mask="volumes/some", **names)), settings, seed=3)[0]
        for names in ({}, {"voxel_weights": dataset})
    )
    begin = np.rint(doubled["info"]["offset"] / (4.6, 5, 5)).astype(int) + 6 - 3  # three voxels of context
    stored = weighted.root["volumes/weights"][tuple(slice(at, at + 18) for at in begin)]
    middle = stored[3:-3, 3:-3, 3:-3]
    pairs = [np.maximum(middle, stored[2:-4, 3:-3, 3:-3]), np.maximum(middle, stored[3:-3, 3:-3, 0:-6])]
    for target, expected in zip(settings.targets, (np.stack(pairs), middle[None]), strict=True):
        gradients = []
        for sample in (plain, doubled):
            made = {key: torch.from_numpy(value)[None] for key, value in sample["targets"][target.name].items()}
            logits = torch.full((1, target.channels, 12, 12, 12), 0.3, requires_grad=True)
            target.loss_of(logits, made["target"], made["weight"]).backward()
            gradients.append(logits.grad[0].numpy())
        known = gradients[0] != 0
        assert known.any()
        ratio = gradients[1][known] / gradients[0][known]
        np.testing.assert_allclose(ratio, np.broadcast_to(expected, known.shape)[known], rtol=1e-5)
        np.testing.assert_array_equal(gradients[1][~known], 0)


def test_entries_without_weights_are_trained_beside_those_with(weighted, make_settings):
    entries = [weighted.entry("one", **PLACE, weight=1), weighted.entry("two", **PLACE, weight=1)]
    entries[1] = entries[1].model_copy(update={"voxel_weights": "volumes/weights"})
    settings = make_settings(targets=[{"type": "boundaries", "balance": False}], reject={"min_mask_fraction": 0})
    samples = TrainingSamples(weighted.config(*entries), settings, seed=3)
    found = {sample["info"]["region"]: set(np.unique(sample["targets"]["boundaries"]["weight"])) for sample in
             map(samples.__getitem__, range(8))}  # fmt: skip
    assert found[0] <= {0.0, 1.0}
    assert found[1] == {0.0, 1.0, 2.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((40, 44, 48), -1, np.float32), "weights of cell_1 holds the weight -1 at z 6, y 6, x 6"),
        (np.full((40, 44, 48), np.nan, np.float32), "holds the weight nan"),
        (np.ones((40, 44, 48), np.uint16), "without a scale attribute"),
        (np.ones((20, 44, 48), np.float32), "covers z 0-19, but cell_1 asks for z 6-29"),
    ],
)
def test_wrong_weights_are_refused(cell, values, message):
    cell.put("volumes/weights", values)
    entry = cell.entry(**PLACE, voxel_weights="volumes/weights")

    def read():
        region = open_regions(cell.config(entry), num_classes=2, voxel_size=entry.voxel_size, need_labels=True)[0]
        region.read_weights(region.roi)

    with pytest.raises(DataError, match=message):
        read()
