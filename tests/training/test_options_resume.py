"""Every option of the optimisation, killed by SIGKILL between two checkpoints, ends as if it had never stopped."""

import signal
from typing import Any

import pytest
import torch

from incasem_like.networks import read_checkpoint
from incasem_like.training.state import TrainingState

pytestmark = pytest.mark.slow
LENGTH = ("training.iterations=8", "training.save_every=2", "validation.validate_every=2")
OPTIONS: dict[str, tuple[str, ...]] = {
    "adamw, polynomial": (
        "training.optimizer.type=adamw", "training.optimizer.weight_decay=0.1",
        "training.learning_rate_schedule.type=polynomial", "training.learning_rate_schedule.warmup_iterations=2",
    ),
    "rmsprop, cosine, accumulation, clipping": (
        "training.optimizer.type=rmsprop", "training.optimizer.momentum=0.5",
        "training.learning_rate_schedule.type=cosine",
        "training.batch_size=2", "training.accumulate=2", "training.clip_gradient_norm=0.01",
    ),
    "sgd, plateau": (
        "training.optimizer.type=sgd", "training.optimizer.momentum=0.9",
        "training.learning_rate_schedule.type=plateau", "training.learning_rate_schedule.patience=0",
        "training.checkpoints.best_metric=recall_class_1",
    ),
    "early stopping, average of weights": (
        "training.ema_decay=0.8", "training.early_stopping=2", "training.checkpoints.best_metric=recall_class_1",
    ),
    "dropout, batch norm, average of weights": (
        "model.bottleneck_dropout=0.5", "model.normalization=batch", "training.ema_decay=0.5", "training.batch_size=2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_a_training_killed_with_options_on_equals_one_left_alone(laboratory: Any, option: str) -> None:
    argv = laboratory.new(*LENGTH, *OPTIONS[option])
    assert laboratory.train(argv) == 0, laboratory.output.read_text()
    assert laboratory.train(argv, {"event": "state half written", "count": 3}) == -signal.SIGKILL
    assert laboratory.train(laboratory.going_on(2)) == 0, laboratory.output.read_text()
    whole, killed = laboratory.store.get(1), laboratory.store.get(2)
    assert (killed.status, killed.result) == ("COMPLETED", whole.result)
    assert {name: (metric.steps, metric.values) for name, metric in killed.metrics.items()} == {
        name: (metric.steps, metric.values) for name, metric in whole.metrics.items()
    }
    folders = [laboratory.runs / "models" / name for name in ("0001", "0002")]
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(path.name for path in folders[1].iterdir())
    for name in names:
        one, other = (folder / name for folder in folders)
        if name.startswith("model"):
            assert one.read_bytes() == other.read_bytes(), name
        else:
            assert_equal_states(TrainingState.load(one), TrainingState.load(other))


def assert_equal_states(one: TrainingState, other: TrainingState) -> None:
    for name in ("random", "weights"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert (one.best, one.plateau, one.schedule) == (other.best, other.plateau, other.schedule)
    assert repr(one.metrics) == repr(other.metrics)  # some are NaN


def test_a_training_that_stopped_early_is_complete_until_more_patience_is_asked_for(laboratory: Any) -> None:
    options = ("training.early_stopping=1", "training.checkpoints.best_metric=recall_class_1")
    assert laboratory.train(laboratory.new(*LENGTH, "training.optimizer.lr=1e-12", *options)) == 0
    assert "Stopped early: recall_class_1 did not improve in 1 validations." in laboratory.output.read_text()
    record = laboratory.store.get(1)
    assert (record.status, record.result["iteration"]) == ("COMPLETED", 4)
    assert laboratory.train(laboratory.going_on(1)) == 0
    assert "Training run 1 was already complete: 4 iterations" in laboratory.output.read_text()
    assert laboratory.train(laboratory.going_on(1, "training.early_stopping=2")) == 0
    assert laboratory.store.get(1).result["iteration"] == 6
    assert laboratory.train(laboratory.going_on(1, "training.early_stopping=null")) == 0
    assert laboratory.store.get(1).result["iteration"] == 8


def test_checkpoints_hold_the_average_of_the_weights(laboratory: Any) -> None:
    """The average is that of the weights of each iteration, which a training without an average has too."""
    every = (
        *("training.iterations=4", "training.save_every=1", "training.checkpoints.keep_every=1"),
        "validation.data=null",
    )
    assert laboratory.train(laboratory.new(*every)) == 0, laboratory.output.read_text()
    assert laboratory.train(laboratory.new(*every, "training.ema_decay=0.75")) == 0, laboratory.output.read_text()
    weights, averages = (
        [read_checkpoint(laboratory.runs / f"models/{run}/model_checkpoint_{n}").network_state for n in range(1, 5)]
        for run in ("0001", "0002")
    )
    for name, value in weights[0].items():
        average = value.double()
        for number in range(4):
            if number:
                average = 0.75 * average + 0.25 * weights[number][name].double()
            assert torch.allclose(averages[number][name].double(), average, atol=1e-6), (name, number)
    assert not torch.allclose(averages[3][name], weights[3][name], atol=1e-6)
