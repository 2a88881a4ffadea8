"""What a name means to runs: a common field, a metric, a configuration key, a result; whole or by its short name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.queries.fields import ALIASES, COMMON_FIELDS, Field, config_field, metric_field, result_field

_VALUES = ("last", "min", "max")
_MOST_CANDIDATES = 8


@dataclass(frozen=True)
class Vocabulary:
    """The names that some runs know.

    Attributes:
        metrics: Names of their metrics.
        config_keys: Dotted keys of their configurations.
        result_keys: Dotted keys of their results.
    """

    metrics: Sequence[str] = ()
    config_keys: Sequence[str] = ()
    result_keys: Sequence[str] = ()

    def find(self, name: str) -> Field | None:
        """Find what a name means; None where nothing has it.

        A whole name comes first: a common field (status, started, tags, …), a metric, a configuration key, a result.
        Then short names: the end of a configuration key or result (``lr`` for training.optimizer.lr), then the
        beginning of a metric's name, for which the foreground counts (``dice`` for dice_class_1). ``.last``, ``.min``
        or ``.max`` behind a metric choose its value; without, it is its best, or its last where none is better.

        Raises:
            InputError: Several things have that short name; the message lists them.
        """
        if field := COMMON_FIELDS.get(ALIASES.get(name, name)):
            return field
        for tier in (self._whole(name), self._ends(name), self._beginnings(name)):
            if len(tier) == 1:
                return tier[0]
            if tier:
                raise InputError(f"'{name}' may mean {_listed([field.meaning for field in tier])}: write which.")
        return None

    def get(self, name: str) -> Field:
        """Find what a name means.

        Raises:
            InputError: Nothing has that name; the message names the nearest. Or several things have it.
        """
        field = self.find(name)
        if field is None:
            known = [*COMMON_FIELDS, *ALIASES, *self.metrics, *self.config_keys, *self.result_keys]
            short = [key.rpartition(".")[2] for key in self.config_keys]
            short += [metric.partition("_")[0] for metric in self.metrics]
            inside = [key for key in (*self.config_keys, *self.metrics) if name and name in key.split(".")]
            hint = f": it is a section, choose {_listed(inside)}." if inside else nearest(name, [*known, *short])
            if not self.config_keys and not self.metrics:
                hint = ", for there are none yet: name another store."
            raise InputError(f"No run has a field, metric or configuration key '{name}'{hint or ': correct the name.'}")
        return field

    def _whole(self, name: str) -> list[Field]:
        if name in self.metrics:
            return [metric_field(name, name)]
        metric, _, value = name.rpartition(".")
        if value in _VALUES and metric in self.metrics:
            return [metric_field(name, metric, value)]
        if name in self.config_keys:
            return [config_field(name, name)]
        key = name.removeprefix("result.")
        return [result_field(name, key)] if key in self.result_keys else []

    def _ends(self, name: str) -> list[Field]:
        keys = [key for key in self.config_keys if key.endswith(f".{name}")]
        results = [key for key in self.result_keys if key.endswith(f".{name}")]
        return [config_field(name, key) for key in keys] or [result_field(name, key) for key in results]

    def _beginnings(self, name: str) -> list[Field]:
        metric, _, value = name.rpartition(".")
        short, wanted = (metric, value) if value in _VALUES else (name, None)
        foreground = re.compile(rf"{re.escape(short)}_class_[1-9]\d*$")
        found = [metric for metric in self.metrics if foreground.match(metric)]
        found = found or [metric for metric in self.metrics if metric.startswith(f"{short}_")]
        return [metric_field(name, metric, wanted) for metric in sorted(found)]


def may_be_config(name: str) -> bool:
    """Whether a name has to be looked for in configurations: common fields are not."""
    return ALIASES.get(name, name) not in COMMON_FIELDS


def keys_named(name: str, keys: Iterable[str]) -> list[str]:
    """The configuration keys that a name may mean."""
    return [key for key in keys if key == name or key.endswith(f".{name}")]


def metrics_named(name: str) -> list[str]:
    """The metrics that a name may mean, for stores that have to be told what to look for."""
    metric, _, value = name.rpartition(".")
    short = metric if value in _VALUES else name
    return [short, f"{short}_class_1"]


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_CANDIDATES])
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    *first, last = [*shown, *more]
    return f"{', '.join(first)} or {last}" if first else last
