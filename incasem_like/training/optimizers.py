"""The optimizer of a training, and its learning rate: a schedule, or a plateau of a validation metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.config.training_sections import OptimizerConfig, ScheduleConfig


def make_optimizer(section: OptimizerConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer of a training."""
    common: dict[str, Any] = {"lr": section.lr, "weight_decay": section.weight_decay}
    if section.type == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=section.momentum, **common)
    if section.type == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), momentum=section.momentum, **common)
    if section.type == "adamw":
        return torch.optim.AdamW(network.parameters(), **common)
    return torch.optim.Adam(network.parameters(), **common)


def learning_rate(config: TrainingConfig, iteration: int) -> float:
    """Return the learning rate of one iteration, 1 .. ``training.iterations``, before a plateau lowers it.

    It needs no state, as torch's schedulers do, and is that of the new length at once when a run is continued.

    It rises linearly over the warm-up, reaches ``training.optimizer.lr`` at its last iteration, and from the next one
    on it follows the schedule down to ``final_fraction`` of that at the last iteration of all: half a cosine
    (Loshchilov & Hutter 2017, without restarts), a straight line, or (1 - progress) ^ power.
    """
    base, schedule = config.training.optimizer.lr, config.training.learning_rate_schedule
    if iteration <= schedule.warmup_iterations:
        return base * iteration / schedule.warmup_iterations
    if schedule.type in ("constant", "plateau"):
        return base
    first = schedule.warmup_iterations + 1
    progress = min((iteration - first) / max(config.training.iterations - first, 1), 1.0)
    shapes: dict[str, float] = {
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "linear": 1.0 - progress,
        "polynomial": (1.0 - progress) ** schedule.power,
    }
    return base * (schedule.final_fraction + (1.0 - schedule.final_fraction) * shapes[schedule.type])


class Plateau:
    """The factor of the learning rate that falls whenever a metric stops improving: torch's ``ReduceLROnPlateau``.

    Args:
        schedule: Its ``factor``, ``patience`` and ``final_fraction``.
        mode: Whether a high or a low value of the metric is good.

    Example:
        >>> from incasem_like.config.training_sections import ScheduleConfig
        >>> plateau = Plateau(ScheduleConfig(type="plateau", factor=0.5, patience=1), "max")
        >>> for dice in (0.6, 0.5, 0.4, 0.7):
        ...     plateau.measured(dice)
        >>> plateau.factor
        0.5
    """

    def __init__(self, schedule: ScheduleConfig, mode: Literal["max", "min"]) -> None:
        # It changes an optimizer; this one stands in for the training's, whose rate is set at every update.
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer,
            mode=mode,
            factor=schedule.factor,
            patience=schedule.patience,
            min_lr=schedule.final_fraction,
        )

    @property
    def factor(self) -> float:
        """The factor now, 1 at first."""
        return float(self._optimizer.param_groups[0]["lr"])

    def measured(self, value: float) -> None:
        """Take the metric of a validation into account; NaN does not count as an improvement."""
        self._scheduler.step(value)

    def state(self) -> dict[str, Any]:
        """Return the state that an exact resumption needs."""
        return {**self._scheduler.state_dict(), "factor_now": self.factor}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state."""
        known = dict(state)
        self._optimizer.param_groups[0]["lr"] = known.pop("factor_now")
        self._scheduler.load_state_dict(known)
