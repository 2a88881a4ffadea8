"""A prediction measured tile by tile against measuring it whole."""

from types import SimpleNamespace

import numpy as np
import pytest

from incasem_like.evaluation import voxel_scores
from incasem_like.evaluation.prediction_metrics import PredictionMetrics
from incasem_like.volumes import Coordinate, Roi

BEGIN, SHAPE = Coordinate(10, 20, 30), (6, 8, 9)


@pytest.fixture
def scene():
    generator = np.random.default_rng(2)
    labels, valid = generator.integers(0, 2, SHAPE).astype(np.uint8), generator.integers(0, 2, SHAPE).astype(np.uint8)
    foreground = generator.random(SHAPE).astype(np.float32)
    region = SimpleNamespace(
        roi=Roi(BEGIN, SHAPE),
        read_labels=lambda roi: labels[(roi - BEGIN).to_slices()],
        read_metric_mask=lambda roi: valid[(roi - BEGIN).to_slices()],
    )
    return region, labels, valid, np.stack([1 - foreground, foreground])


def test_tiles_score_as_the_whole_and_what_is_outside_does_not_count(scene):
    region, labels, valid, probabilities = scene
    metrics = PredictionMetrics(region, 3, num_classes=2)
    padded = np.pad(probabilities, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=1)
    for begin in (0, 3):
        metrics.observe(Roi(BEGIN + Coordinate(begin, 0, 0), (3, 10, 9)), padded[:, begin : begin + 3])
    metrics.observe(Roi((100, 100, 100), (3, 10, 9)), padded[:, :3])
    expected = voxel_scores(probabilities, labels, valid, num_classes=2)
    assert metrics.scores() == {f"{name}_ds_3": value for name, value in expected.items()}
