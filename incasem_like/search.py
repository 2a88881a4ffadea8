"""Searches of parameters: trials chosen by grid, at random or with Optuna."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from incasem_like.config.sweep_config import SweepSection
from incasem_like.errors import InputError

if TYPE_CHECKING:
    import optuna

DEFAULT_TRIALS = 20
MOST_TRIALS = 10_000


@dataclass
class Trial:
    """One choice of parameters.

    Attributes:
        number: From 0.
        parameters: The values of the varied keys, by dotted key.
        run_id: Its run, if it has one of its own, once it has begun.
        status: Empty until it is finished, then the status of its run: COMPLETED, FAILED, ...
        value: The best value of the metric, None where it was never measured.
    """

    number: int
    parameters: dict[str, Any]
    run_id: int | None = None
    status: str = ""
    value: float | None = None


class Search:
    """Chooses the parameters of trials.

    Args:
        section: The section of the configuration that describes the search.
        metric: Metric to compare trials by.
        mode: Whether its highest (``"max"``) or lowest (``"min"``) value is best.

    Raises:
        InputError: Nothing varies, or there are too many combinations.

    Example:
        >>> space = {"training.optimizer.lr": [0.001, 0.0001], "model.num_fmaps": {"low": 4, "high": 8, "step": 4}}
        >>> search = Search(SweepSection(method="grid", space=space), "dice_class_1", "max")
        >>> search.total
        4
        >>> [trial.parameters["model.num_fmaps"] for trial in search.ask([], 4)]
        [4, 8, 4, 8]
    """

    def __init__(self, section: SweepSection, metric: str, mode: str) -> None:
        self.section, self.metric, self.mode = section, metric, mode
        self.dimensions = section.dimensions
        if not self.dimensions:
            raise InputError(
                f"{section.key}.space is empty, so that nothing varies: name keys and their values, such as "
                f"{section.key}.space.{section.example}."
            )
        self._grid = list(self._combinations()) if section.method == "grid" else []
        self.total = section.trials or len(self._grid) or DEFAULT_TRIALS
        if self._grid:
            self.total = min(self.total, len(self._grid))

    def ask(self, trials: Sequence[Trial], count: int) -> list[Trial]:
        """Return the next trials, at most ``count``; the same ones whenever the earlier trials are the same.

        Args:
            trials: All trials so far, in order.
            count: How many can run at a time.
        """
        first, count = len(trials), min(count, self.total - len(trials))
        if self._grid:
            return [Trial(number, self._grid[number]) for number in range(first, first + count)]
        skipped = first if self.section.method == "random" else 0  # random draws do not depend on the earlier trials
        study = self._study(trials[skipped:])
        drawn = [study.ask(self._distributions()).params for _ in range(skipped + count)][skipped:]
        return [
            Trial(number, {key: self._value(key, parameters[key]) for key in self.dimensions})
            for number, parameters in enumerate(drawn, first)
        ]

    def _combinations(self) -> Iterator[dict[str, Any]]:
        axes = []
        for values in self.dimensions.values():
            if isinstance(values, Mapping):
                steps = int((values["high"] - values["low"]) / values["step"] + 1e-9)
                values = [values["low"] + index * values["step"] for index in range(steps + 1)]
            axes.append(values)
        combinations = int(np.prod([len(axis) for axis in axes], dtype=object))
        if combinations > MOST_TRIALS:
            raise InputError(
                f"{self.section.key}.space has {combinations} combinations, more than {MOST_TRIALS}: set "
                f"{self.section.key}.method=random and {self.section.key}.trials."
            )
        for chosen in itertools.product(*axes):
            yield dict(zip(self.dimensions, chosen, strict=True))

    def _study(self, trials: Sequence[Trial]) -> optuna.Study:
        """Return a study that knows the earlier trials: the sampler depends on them and on the seed alone."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = self.section.seed + len(trials)  # a resumed sampler must not repeat its first draws
        sampler: optuna.samplers.BaseSampler = (
            optuna.samplers.RandomSampler(seed=seed)
            if self.section.method == "random"
            else optuna.samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=min(10, self.total // 2))
        )
        study = optuna.create_study(sampler=sampler, direction="maximize" if self.mode == "max" else "minimize")
        distributions = self._distributions()
        for trial in trials:
            measured = trial.value is not None
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if measured else optuna.trial.TrialState.FAIL,
                    params={key: self._encoded(key, value) for key, value in trial.parameters.items()},
                    distributions=distributions,
                    value=trial.value if measured else None,
                )
            )
        return study

    def _distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, optuna.distributions.BaseDistribution] = {}
        for key, values in self.dimensions.items():
            if not isinstance(values, Mapping):
                found[key] = CategoricalDistribution(range(len(values)))  # Optuna has no lists as choices
            elif isinstance(values["low"], int) and isinstance(values["high"], int):
                found[key] = IntDistribution(**{"step": 1, **values})
            else:
                found[key] = FloatDistribution(**values)
        return found

    def _value(self, key: str, drawn: Any) -> Any:
        values = self.dimensions[key]
        return drawn if isinstance(values, Mapping) else values[drawn]

    def _encoded(self, key: str, value: Any) -> Any:
        values = self.dimensions[key]
        return value if isinstance(values, Mapping) else values.index(value)


def best_trial(trials: Sequence[Trial], mode: str) -> Trial | None:
    """Return the trial with the best value; None if none was measured."""
    measured = [trial for trial in trials if trial.value is not None]
    choose = max if mode == "max" else min
    return choose(measured, key=lambda trial: trial.value or 0.0, default=None)


def trials_csv(trials: Sequence[Trial], metric: str, run: str = "training_run") -> str:
    """Return all trials as CSV: number, run, status, value and one column for each varied key."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.parameters))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", run, "status", metric, *keys])
    for trial in trials:
        values = [shown(trial.parameters[key]) for key in keys]
        writer.writerow([trial.number, trial.run_id, trial.status, "" if trial.value is None else trial.value, *values])
    return text.getvalue()


def shown(value: Any) -> str:
    """Return a parameter as in ``key=value``."""
    return value if isinstance(value, str) else json.dumps(value)
