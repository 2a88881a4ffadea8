"""What a checkpoint may hold, what is safe before it is written, and which go when some are on another machine."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.errors import CheckpointError, IncasemError
from incasem_like.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


def spoiling(trainer: Trainer, update: int) -> None:
    """Have that update, whose loss and gradient are finite, make weights infinite."""
    seen: list[int] = []

    def spoil(*_: Any) -> None:
        seen.append(1)
        if len(seen) == update:
            next(trainer.parts.optimization.network.parameters()).data.fill_(math.inf)

    trainer.parts.optimization.optimizer.register_step_post_hook(spoil)


def test_weights_that_are_no_numbers_are_never_saved(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    spoiling(trainer, 4)
    with pytest.raises(
        IncasemError, match=r"weights are no longer finite at iteration 4 \(the last checkpoint, 2, is kept\): lower"
    ):
        trainer.fit()
    assert trainer.parts.checkpoints.iterations() == [2]
    assert sorted(trainer.parts.run.checkpoints) == [2]


def test_weights_spoilt_between_two_checkpoints_end_the_training_at_the_next_loss(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    spoiling(trainer, 3)
    with pytest.raises(IncasemError, match="loss became nan at iteration 4"):
        trainer.fit()
    assert trainer.parts.checkpoints.iterations() == [2]


def test_what_was_logged_is_safe_before_a_checkpoint_says_that_it_happened(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dice={})
    run, write = trainer.parts.run, trainer.parts.checkpoints.write
    unsafe: list[int] = []

    def watch(*arguments: Any) -> Path:
        unsafe.append(len(run.scalars) - run.flushed)
        return write(*arguments)

    object.__setattr__(trainer.parts, "checkpoints", Watched(trainer.parts.checkpoints, watch))
    trainer.fit()
    assert unsafe == [0, 0, 0]


class Watched:
    """A folder of checkpoints whose writing is watched."""

    def __init__(self, folder: Any, write: Callable[..., Path]) -> None:
        self._folder, self.write = folder, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._folder, name)


def test_superfluous_checkpoints_on_another_machine_are_forgotten_too(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(training={"iterations": 8, "checkpoints": {"keep_last": 2}})
    forgotten: list[int] = []
    elsewhere = {-4, -2}  # iterations of before, in an order that comes before all of this machine's
    object.__setattr__(trainer.parts, "registered", lambda: elsewhere)
    forget = trainer.parts.run.forget_checkpoint

    def note(path: Path) -> None:
        number = int(path.name.rpartition("_")[2])
        forgotten.append(number)
        elsewhere.discard(number)
        forget(path)

    trainer.parts.run.forget_checkpoint = note  # type: ignore[method-assign]
    trainer.fit()
    assert forgotten == [-4, -2, 2, 4]


def test_a_state_of_another_iteration_is_refused(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer("run").fit()
    (tmp_path / "run/training_state_2").replace(tmp_path / "run/training_state_4")
    with pytest.raises(CheckpointError, match="is of iteration 2"):
        make_trainer("run").restore(tmp_path / "run/model_checkpoint_4")
