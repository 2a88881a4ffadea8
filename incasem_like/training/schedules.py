"""Learning-rate schedules as functions of the iteration only, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig


def constant(progress: float) -> float:
    """Return 1: a constant learning rate."""
    return 1.0


def cosine(progress: float) -> float:
    """Return half a cosine that falls from 1 to 0 (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """Return a straight line from 1 to 0."""
    return 1.0 - progress


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine, "linear": linear}


def learning_rate(config: TrainingConfig, iteration: int) -> float:
    """Return the learning rate of one iteration, 1 .. ``training.iterations``.

    It rises linearly over the warm-up, reaches ``training.optimizer.lr`` at its last iteration, and from the next one
    on it follows the schedule down to ``final_fraction`` of that at the last iteration of all.
    """
    base, schedule = config.training.optimizer.lr, config.training.learning_rate_schedule
    if iteration <= schedule.warmup_iterations:
        return base * iteration / schedule.warmup_iterations
    first = schedule.warmup_iterations + 1
    progress = min((iteration - first) / max(config.training.iterations - first, 1), 1.0)
    shape = SCHEDULES[schedule.type](progress)
    return base * (schedule.final_fraction + (1.0 - schedule.final_fraction) * shape)
