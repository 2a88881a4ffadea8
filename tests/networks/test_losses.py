from types import SimpleNamespace

import numpy as np
import pytest
import torch

from incasem_like.errors import ConfigError
from incasem_like.networks import build_loss


def loss_of(weight):
    return build_loss(SimpleNamespace(type="cross_entropy_scaling", weight=weight))


def by_hand(logits, labels, scale, weight):
    """The definition, voxel by voxel."""
    total = 0.0
    for index in np.ndindex(labels.shape):
        values = logits[(index[0], slice(None), *index[1:])].astype(np.float64)
        probability = np.exp(values - values.max())
        probability /= probability.sum()
        label = labels[index]
        total += -np.log(probability[label]) * weight[label] * scale[index]
    return total / scale.sum()


def test_loss_is_the_weighted_mean_of_the_definition():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(2, 3, 2, 3, 4)).astype(np.float32)
    labels = generator.integers(0, 3, (2, 2, 3, 4))
    scale = generator.uniform(size=labels.shape).astype(np.float32) * generator.integers(0, 2, labels.shape)
    weight = [1.0, 0.5, 2.0]

    loss = loss_of(weight)(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(scale))

    assert float(loss) == pytest.approx(by_hand(logits, labels, scale, weight), rel=1e-5)


def test_a_batch_that_is_masked_throughout_gives_nought_and_keeps_the_graph():
    logits = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    loss = loss_of([1.0, 1.0])(logits, torch.zeros(1, 2, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, 2))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_masked_voxels_do_not_count():
    logits, labels = torch.randn(1, 2, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    scale = torch.ones(1, 2, 2, 2)
    scale[:, 1] = 0
    changed = logits.clone()
    changed[:, :, 1] = 100
    loss = loss_of([1.0, 1.0])
    assert torch.equal(loss(logits, labels, scale), loss(changed, labels, scale))


def test_half_precision_logits_are_summed_in_single_precision():
    logits = torch.randn(1, 2, 40, 40, 40).half()
    labels = torch.zeros(1, 40, 40, 40, dtype=torch.int64)
    loss = loss_of([1.0, 1.0])(logits, labels, torch.full((1, 40, 40, 40), 2.0))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_weights_for_another_number_of_classes_are_refused():
    with pytest.raises(ConfigError, match=r"loss.weight has 2 numbers, but the network gives 3 classes"):
        loss_of([1.0, 1.0])(torch.zeros(1, 3, 1, 1, 1), torch.zeros(1, 1, 1, 1).long(), torch.ones(1, 1, 1, 1))


def test_unknown_loss_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy_scaling'"):
        build_loss(SimpleNamespace(type="crossentropy_scaling", weight=[1.0, 1.0]))
