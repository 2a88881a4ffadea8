"""The meaning of names in runs, and the runs that meet some conditions, sorted, with the fields asked for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import Any

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.model.summaries import ALL_KEYS, RunSummary, flatten
from incasem_like.tracking.queries.fields import (
    ALIASES,
    COMMON_FIELDS,
    ORGANELLE,
    Condition,
    Field,
    config_field,
    metric_field,
    organelle_labels,
    result_field,
)
from incasem_like.tracking.stores.base import RunStore

_VALUES = ("last", "min", "max")
_MOST_CANDIDATES = 8
Key = tuple[str, int]
# The names that so many of the newest and oldest runs know are tried before those of all runs.
_NEWEST, _OLDEST = 60, 20


@dataclass(frozen=True)
class Vocabulary:
    """The names that some runs know: of metrics, and dotted keys of their configurations and results."""

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
        metric, _, value = name.rpartition(".")
        short, wanted = (metric, value) if value in _VALUES else (name, None)
        key = name.removeprefix("result.")
        whole = [metric_field(name, name)] if name in self.metrics else []
        whole += [metric_field(name, short, wanted)] if wanted and short in self.metrics else []
        whole += [config_field(name, name)] if name in self.config_keys else []
        whole += [result_field(name, key)] if key in self.result_keys else []
        ends = [config_field(name, key) for key in self.config_keys if key.endswith(f".{name}")]
        ends = ends or [result_field(name, key) for key in self.result_keys if key.endswith(f".{name}")]
        foreground = re.compile(rf"{re.escape(short)}_class_[1-9]\d*$")
        longer = [metric for metric in self.metrics if foreground.match(metric)]
        longer = longer or [metric for metric in self.metrics if metric.startswith(f"{short}_")]
        for tier in (whole[:1], ends, [metric_field(name, metric, wanted) for metric in sorted(longer)]):
            if len(tier) == 1:
                return tier[0]
            if tier:
                raise InputError(f"'{name}' may mean {_listed([field.meaning for field in tier])}: write which.")
        return None

    def get(self, name: str) -> Field:
        """Find what a name means; ``InputError``, which names the nearest, if nothing or several things have it."""
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


def may_be_config(name: str) -> bool:
    """Whether a name has to be looked for in configurations: common fields are not."""
    return ALIASES.get(name, name) not in COMMON_FIELDS


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_CANDIDATES])
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    *first, last = [*shown, *more]
    return f"{', '.join(first)} or {last}" if first else last


def inherited(field: Field, runs: Sequence[RunSummary], stores: Sequence[RunStore]) -> Field:
    """Make of the field ``organelle`` one that looks at a run's ancestors where its own data name none.

    A prediction reads no labels: it is about what its training was about, and so is what was made of it.
    """
    known = {(run.kind, run.id): run for run in runs}
    kinds = {store.kind for store in stores}
    while further := {kind for run in known.values() if not organelle_labels(run) for kind, _ in run.parents} - kinds:
        kinds |= further
        for kind in sorted(further):
            known |= {(run.kind, run.id): run for run in stores[0].sibling(kind).summaries(inputs=True)}

    def read(run: RunSummary, below: tuple[Key, ...] = ()) -> tuple[str, ...]:
        if own := organelle_labels(run):
            return own
        lineage = (*below, (run.kind, run.id))
        above = [known[parent] for parent in run.parents if parent in known and parent not in lineage]
        return tuple(dict.fromkeys(name for parent in above for name in read(parent, lineage))) or run.tags

    return replace(field, read=read)


@dataclass(frozen=True)
class Selection:
    """The runs that meet all conditions, in order, what each asked name means, and how many runs there were."""

    runs: Sequence[RunSummary]
    fields: Mapping[str, Field]
    total: int


def select_runs(
    stores: Sequence[RunStore],
    conditions: Sequence[Condition] = (),
    *,
    names: Sequence[str] = (),
    optional: Sequence[str] = (),
    sort: Sequence[str] = (),
) -> Selection:
    """Find the runs of some stores that meet all conditions.

    Args:
        stores: One store for each kind of run.
        conditions: What has to hold.
        names: Further names whose meaning is wanted, of columns.
        optional: Common fields and metrics whose meaning is wanted too where runs know them.
        sort: Names to sort by, the first weighs most; a minus before a name puts the largest first. Runs without a
            value come last. Without: the newest first.

    Raises:
        InputError: A name means nothing or several things to these runs; or a condition's value does not suit it.
    """
    needed = list(dict.fromkeys([*(c.name for c in conditions), *names, *(name.removeprefix("-") for name in sort)]))
    asked = list(dict.fromkeys([*needed, *optional]))
    found, vocabularies = _read(stores, asked, list(filter(may_be_config, needed)))
    if any(_find(name, vocabularies) is None for name in needed):
        found, vocabularies = _read(stores, asked, [ALL_KEYS])
    fields = {name: _find(name, vocabularies) or _vocabulary(found, True).get(name) for name in needed}
    for name in optional:
        with contextlib.suppress(InputError):
            if field := _find(name, vocabularies):
                fields[name] = field
    if ORGANELLE in fields:
        fields[ORGANELLE] = inherited(fields[ORGANELLE], found, stores)
    tests = [condition.compile(fields[condition.name]) for condition in conditions]
    runs = [run for run in found if all(test(run) for test in tests)]
    runs.sort(key=lambda run: (run.start_time is not None, run.start_time, run.id) if len(stores) > 1 else run.id)
    runs.reverse()
    for name in reversed(sort):
        runs.sort(key=_order(fields[name.removeprefix("-")], descending=name.startswith("-")))
    return Selection(runs, fields, len(found))


def _read(
    stores: Sequence[RunStore], asked: Sequence[str], config_keys: Sequence[str]
) -> tuple[list[RunSummary], dict[str, Vocabulary]]:
    """Read summaries with the configuration keys that names may mean; return them, and what names mean by kind."""
    inputs = any(field.needs_inputs for name in asked if (field := COMMON_FIELDS.get(ALIASES.get(name, name))))
    asked_metrics = [name.rpartition(".") for name in asked if may_be_config(name)]
    short = [metric if value in _VALUES else f"{metric}{dot}{value}" for metric, dot, value in asked_metrics]
    metrics = [metric for name in short for metric in (name, f"{name}_class_1")]
    by_kind = {store.kind: store.summaries(config_keys, inputs=inputs, metrics=metrics) for store in stores}
    vocabularies = {kind: _vocabulary(runs, ALL_KEYS in config_keys) for kind, runs in by_kind.items()}
    return [run for runs in by_kind.values() for run in runs], vocabularies


def _vocabulary(runs: Sequence[RunSummary], of_all: bool) -> Vocabulary:
    some = runs if of_all else [*runs[:_OLDEST], *runs[_OLDEST:][-_NEWEST:]]
    return Vocabulary(
        metrics=sorted({name for run in some for name in run.summary}),
        config_keys=sorted({key for run in runs for key in run.config}),
        result_keys=sorted({key for run in some for key in flatten(run.result)}),
    )


def _find(name: str, vocabularies: Mapping[str, Vocabulary]) -> Field | None:
    """What a name means to each kind of run: ``dice`` is dice_class_1 of a training and dice of an evaluation."""
    found = {kind: field for kind, known in vocabularies.items() if (field := known.find(name))}
    if len(found) <= 1:
        return next(iter(found.values()), None)

    def read(run: RunSummary) -> Any:
        field = found.get(run.kind)
        return None if field is None else field.read(run)

    first, *others = found.values()
    meaning = " or ".join(dict.fromkeys([first.meaning, *(field.meaning for field in others)]))
    return replace(first, meaning=meaning, read=read)


def _order(field: Field, *, descending: bool) -> Callable[[RunSummary], Any]:
    """A key to sort by: numbers and times by size, the rest as text; runs without a value last either way."""
    sign = -1 if descending else 1

    def compare(first: Any, second: Any) -> int:
        if first in (None, ()) or second in (None, ()):
            return int(first in (None, ())) - int(second in (None, ()))
        try:
            return sign * (int(first > second) - int(first < second))
        except TypeError:
            return sign * (int(str(first) > str(second)) - int(str(first) < str(second)))

    key = cmp_to_key(compare)
    return lambda run: key(field.read(run))
