"""The configuration of a sweep (``sweep.yaml``): that of a training, and the keys to vary."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import Positive, Text, contradiction
from incasem_like.config.section import Section
from incasem_like.config.training_config import TrainingConfig

_RANGE_KEYS = {"low", "high", "step", "log"}


class SweepSection(Section):
    """Trainings that differ in some keys of their configuration."""

    key: ClassVar[str] = "sweep"
    example: ClassVar[str] = "training.optimizer.lr=[1e-3,1e-4]"

    method: Literal["grid", "random", "optuna"] = "grid"
    """`grid`: every combination; `random`: independent draws; `optuna`: draws near the best trials so far
    (tree-structured Parzen estimator), better from about 20 trials."""
    trials: Positive | None = None
    """Number of trainings; null = every combination, for `grid`, else 20."""
    metric: Text | None = None
    """Validation metric by whose best value trials are compared; null = `best_metric` of checkpoints."""
    seed: int = Field(1, ge=0, description="Seed of the draws.")
    space: dict[str, Any] = Field(default_factory=dict)
    """Configuration keys to vary, such as `training.optimizer.lr`. A list gives the values to choose from; `{low:
    1.0e-5, high: 1.0e-3, log: true}` a range, of whole numbers where both ends are, with an optional `step`."""

    @property
    def dimensions(self) -> dict[str, Any]:
        """Each key to vary with its list of values or its range, by dotted key."""
        return dict(_dimensions(self.space, ""))

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        for key, values in self.dimensions.items():
            if problem := _problem(values, self.method):
                raise contradiction(f"{self.key}.space.{key} {problem}.")
        return self


class SweepConfig(TrainingConfig):
    """All parameters of a sweep: those that its trainings share, and those that differ."""

    sweep: SweepSection = Field(default_factory=SweepSection, description="The keys to vary.")


def _dimensions(space: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found = []
    for key, value in space.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and not set(value) <= _RANGE_KEYS:
            found += _dimensions(value, f"{path}.")
        else:
            found.append((path, value))
    return found


def _problem(values: Any, method: str) -> str:
    if isinstance(values, list):
        return "" if values else "is empty: give at least one value"
    if not isinstance(values, Mapping):
        return f"is {values!r}: give a list of values, or a range such as {{low: 1.0e-5, high: 1.0e-3, log: true}}"
    if not {"low", "high"} <= set(values):
        return f"is the range {dict(values)}: give both low and high"
    numbers = [values[key] for key in ("low", "high", "step") if key in values]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) for value in numbers):
        return f"is the range {dict(values)}: low, high and step are numbers"
    if values["low"] > values["high"]:
        return f"has low {values['low']} above high {values['high']}: exchange them"
    if values.get("log") and (values["low"] <= 0 or "step" in values):
        return "is a logarithmic range: low must be above 0, and a step is not allowed"
    if values.get("step", 1) <= 0:
        return f"has the step {values['step']}: give a positive one"
    if method == "grid" and "step" not in values:
        return "is a range without a step, which has no grid: give a list, or a step"
    return ""
