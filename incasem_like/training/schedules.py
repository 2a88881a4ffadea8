"""Learning-rate schedules as functions of the iteration alone, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from collections.abc import Callable

from incasem_like.errors import ConfigError
from incasem_like.terminal import nearest


def constant(progress: float) -> float:
    """Keep the learning rate."""
    return 1.0


def cosine(progress: float) -> float:
    """Fall along half a cosine from 1 to 0 (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """Fall along a straight line from 1 to 0."""
    return 1.0 - progress


def polynomial(progress: float) -> float:
    """Fall as (1 - progress) ** 0.9, the "poly" schedule of DeepLab and nnU-Net."""
    return float((1.0 - progress) ** 0.9)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "polynomial": polynomial,
}


def learning_rate(base: float, schedule: str, iteration: int, *, iterations: int, warmup_iterations: int = 0) -> float:
    """Give the learning rate of one iteration.

    Args:
        base: Learning rate after the warm-up, before any decay.
        schedule: A name in ``SCHEDULES``.
        iteration: 1 .. ``iterations``.
        iterations: Length of the whole training.
        warmup_iterations: The rate climbs linearly to ``base`` over these first iterations; then the decay starts.

    Raises:
        ConfigError: There is no such schedule.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(
            f"Set training.learning_rate_schedule to one of {', '.join(SCHEDULES)}: "
            f"'{schedule}' is unknown{nearest(schedule, list(SCHEDULES))}"
        )
    if iteration <= warmup_iterations:
        return base * iteration / warmup_iterations
    decaying = max(iterations - warmup_iterations, 1)
    progress = min((iteration - 1 - warmup_iterations) / decaying, 1.0)
    return base * SCHEDULES[schedule](progress)
