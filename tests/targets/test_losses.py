"""Losses against their definitions, written out voxel by voxel in double precision."""

import numpy as np
import pytest
import torch

from incasem_like.config.target_sections import LOSSES, load, parse_loss

SHAPE = (2, 3, 4, 5)  # b, z, y, x


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def classes(rng):
    """Logits of three classes, class ids, and weights of which a part is 0."""
    weight = rng.uniform(size=SHAPE) * rng.integers(0, 2, SHAPE)
    return rng.normal(size=(2, 3, *SHAPE[1:])), rng.integers(0, 3, SHAPE), weight


@pytest.fixture
def binary(rng):
    """Logits of two independent channels, their targets, and weights of which a part is 0."""
    shape = (2, 2, *SHAPE[1:])
    return rng.normal(size=shape), rng.integers(0, 2, shape), rng.uniform(size=shape) * rng.integers(0, 2, shape)


def computed(options, logits, target, weight, activation):
    arrays = (logits.astype(np.float32), target.astype(np.uint8), weight.astype(np.float32))
    return float(parse_loss(options)(*map(torch.from_numpy, arrays), activation))


def entropy(logits, target, weight):
    """-log p of the right class, times its weight."""
    probability = np.take_along_axis(softmax(logits), target[:, None], axis=1)[:, 0]
    return -np.log(probability) * np.asarray(weight)[target]


def test_balanced_cross_entropy(classes):
    logits, target, weight = classes
    fixed = [1.0, 0.5, 2.0]
    expected = (entropy(logits, target, fixed) * weight).sum() / weight.sum()
    found = computed({"type": "cross_entropy_scaling", "weight": fixed}, *classes, "softmax")
    assert found == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_and_soft_dice_as_in_exllsm(classes):
    logits, target, weight = classes
    counted = weight > 0
    values, wanted = softmax(logits), np.moveaxis(np.eye(3)[target], -1, 1)
    dice = [
        1
        - (2 * (values[b, c] * wanted[b, c])[counted[b]].sum() + 1e-6)
        / ((values[b, c] ** 2 + wanted[b, c] ** 2)[counted[b]].sum() + 1e-6)
        for b in range(2)
        for c in range(3)
    ]
    fixed = [1.0, 5.0, 2.0]
    expected = 0.6 * entropy(logits, target, fixed)[counted].mean() + 0.4 * np.mean(dice)
    found = computed({"type": "cross_entropy_dice", "weight": fixed, "dice_weight": 0.4}, *classes, "softmax")
    assert found == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropies(binary):
    logits, target, weight = binary
    each = np.where(target, -np.log(sigmoid(logits)), -np.log(1 - sigmoid(logits)))
    assert computed("bce", *binary, "sigmoid") == pytest.approx((each * weight).sum() / weight.sum(), rel=1e-5)
    fixed = (each * np.where(target, 3, 1) * weight).sum() / weight.sum()
    found = computed({"type": "weighted_bce", "positive_weight": 3}, *binary, "sigmoid")
    assert found == pytest.approx(fixed, rel=1e-5)
    positive = np.empty((1, 2, 1, 1, 1))
    for channel in range(2):
        share = (target[:, channel] * weight[:, channel]).sum() / weight[:, channel].sum()
        positive[:, channel] = (1 - share) / share
    balanced = (each * np.where(target, positive, 1) * weight).sum() / weight.sum()
    assert computed("weighted_bce", *binary, "sigmoid") == pytest.approx(balanced, rel=1e-5)


def test_a_channel_without_ones_does_not_get_an_infinite_weight(binary):
    logits, target, weight = binary
    found = computed("weighted_bce", logits, np.zeros_like(target), weight, "sigmoid")
    assert np.isfinite(found)


def soft_dice(values, wanted, weight):
    true, false = (values * wanted * weight).sum(), (values * (1 - wanted) * weight).sum()
    missed = ((1 - values) * wanted * weight).sum()
    return 1 - (2 * true + 1) / (2 * true + missed + false + 1)


def test_dice_of_channels_and_of_classes_without_the_background(binary, classes):
    logits, target, weight = binary
    expected = np.mean([soft_dice(sigmoid(logits[:, c]), target[:, c], weight[:, c]) for c in range(2)])
    assert computed("dice", *binary, "sigmoid") == pytest.approx(expected, rel=1e-5)
    logits, target, weight = classes
    expected = np.mean([soft_dice(softmax(logits)[:, c], target == c, weight) for c in (1, 2)])
    assert computed("dice", *classes, "softmax") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("thickness", [1, 2])
def test_boundary_weighted_dice_weighs_the_border_outside_the_objects(binary, thickness):
    logits, target, weight = binary
    target[:] = 0
    target[:, 0, 1, 2, 2] = 1
    factor = np.ones(target.shape)
    for b, c, z, y, x in np.ndindex(target.shape):
        steps = [abs(z - 1), abs(y - 2), abs(x - 2)]
        if c == 0 and steps.count(0) == 2 and 0 < max(steps) <= thickness:
            factor[b, c, z, y, x] = 7
    expected = np.mean([soft_dice(sigmoid(logits[:, c]), target[:, c], (weight * factor)[:, c]) for c in range(2)])
    options = {"type": "boundary_weighted_dice", "boundary_weight": 7, "thickness": thickness}
    assert computed(options, logits, target, weight, "sigmoid") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("activation", "function"), [("sigmoid", sigmoid), ("none", lambda logits: logits)])
def test_mean_squared_error_is_over_the_voxels_that_count(binary, activation, function):
    logits, target, weight = binary
    expected = (weight * (function(logits) - target) ** 2).sum() / (weight > 0).sum()
    assert computed("mse", *binary, activation) == pytest.approx(expected, rel=1e-5)


def test_one_weight_for_all_channels_counts_for_each(binary):
    logits, target, weight = binary
    for name in ("bce", "mse", "dice", "weighted_bce"):
        shared = weight[:, :1]
        repeated = np.repeat(shared, 2, axis=1)
        once = computed(name, logits, target, shared, "sigmoid")
        assert once == pytest.approx(computed(name, logits, target, repeated, "sigmoid"), rel=1e-6), name


def test_a_sum_adds_its_losses(binary):
    losses = ["bce", {"type": "weighted_bce", "positive_weight": 2.0}, "dice"]
    alone = [computed(loss, *binary, "sigmoid") for loss in losses]
    found = computed({"type": "sum", "losses": losses, "weights": [1, 0, 0.5]}, *binary, "sigmoid")
    assert found == pytest.approx(alone[0] + 0.5 * alone[2], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "sum"])
def test_voxels_of_weight_0_never_count_and_a_batch_without_others_keeps_the_graph(name, binary, classes):
    of_classes = "classes" in load(LOSSES[name]).kinds and name != "dice"
    logits, target, weight = classes if of_classes else binary
    activation = "softmax" if of_classes else "sigmoid"
    ignored = np.broadcast_to((weight == 0)[:, None] if of_classes else weight == 0, logits.shape)
    changed = np.where(ignored, 50.0, logits)
    before, after = (computed(name, values, target, weight, activation) for values in (logits, changed))
    assert before == pytest.approx(after, rel=1e-6)
    values = torch.from_numpy(logits.astype(np.float32)).requires_grad_()
    loss = parse_loss(name)(values, torch.from_numpy(target), torch.zeros(weight.shape), activation)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(values.grad, torch.zeros_like(values))


def test_half_precision_logits_are_summed_in_single_precision():
    logits = torch.randn(1, 2, 40, 40, 40).half()
    target = torch.zeros(1, 40, 40, 40, dtype=torch.uint8)
    loss = parse_loss("cross_entropy_scaling")(logits, target, torch.full((1, 40, 40, 40), 2.0), "softmax")
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_balanced_weights_stay_balanced():
    target = np.zeros((1, 1, 1, 1, 20), np.float32)
    target[..., 0] = 1
    weight = np.where(target > 0, 10, 10 / 19).astype(np.float32)
    logits = np.random.default_rng(0).normal(size=target.shape).astype(np.float32)
    plain = computed("bce", logits, target, weight, "sigmoid")
    assert computed("weighted_bce", logits, target, weight, "sigmoid") == pytest.approx(plain, rel=1e-5)
