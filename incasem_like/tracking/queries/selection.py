"""The runs of a store that meet some conditions, sorted, with the fields that were asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.queries.conditions import Condition
from incasem_like.tracking.queries.fields import ORGANELLE, Field
from incasem_like.tracking.queries.inheritance import inherited
from incasem_like.tracking.queries.vocabulary import Vocabulary, keys_named, may_be_config, metrics_named

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore
    from incasem_like.tracking.summaries import RunSummary

# So many of the newest and oldest runs are asked what names they know, before all of them are.
_NEWEST, _OLDEST = 60, 20
_NEWEST_READ, _OLDEST_READ = 8, 2


@dataclass(frozen=True)
class Selection:
    """What was found.

    Attributes:
        runs: The runs that meet all conditions, of all kinds that were asked, in the order asked for.
        fields: What each asked name means, by the name as typed.
        total: How many runs there were before the conditions.
    """

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
    found, vocabularies = _read(stores, asked, _known_keys(stores, needed))
    if any(_find(name, vocabularies) is None for name in needed):
        found, vocabularies = _read(stores, asked, None)
    fields = {name: _find(name, vocabularies) or _united(vocabularies).get(name) for name in needed}
    fields |= {name: field for name in optional if (field := _find_leniently(name, vocabularies))}
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
    stores: Sequence[RunStore], asked: Sequence[str], known: Sequence[str] | None
) -> tuple[list[RunSummary], dict[str, Vocabulary]]:
    """Read summaries with the configuration keys that the names may mean.

    Args:
        stores: Where to look.
        asked: The names.
        known: The configuration keys of some runs. With None all runs are asked for all names they know.

    Returns:
        The runs, and what names mean to those of each kind.
    """
    keys = ["*"] if known is None else [key for name in asked for key in keys_named(name, known)]
    fields = [field for name in asked if (field := Vocabulary().find(name))]
    keys += [key for field in fields for key in field.config_keys]
    inputs = any(field.needs_inputs for field in fields)
    metrics = [metric for name in asked if may_be_config(name) for metric in metrics_named(name)]
    wanted = tuple(dict.fromkeys(keys))
    by_kind = {store.kind: store.summaries(wanted, inputs=inputs, metrics=metrics) for store in stores}
    vocabularies = {kind: _vocabulary(runs, known) for kind, runs in by_kind.items()}
    return [run for runs in by_kind.values() for run in runs], vocabularies


def _vocabulary(runs: Sequence[RunSummary], known: Sequence[str] | None) -> Vocabulary:
    if known is not None and len(runs) > _NEWEST + _OLDEST:
        runs = [*runs[:_OLDEST], *runs[-_NEWEST:]]
    return Vocabulary(
        metrics=sorted({name for run in runs for name in run.summary}),
        config_keys=sorted({key for run in runs for key in run.config} | set(known or ())),
        result_keys=sorted({key for run in runs for key in _result_keys(run.result)}),
    )


def _united(vocabularies: Mapping[str, Vocabulary]) -> Vocabulary:
    parts = list(vocabularies.values())
    return Vocabulary(
        metrics=[name for part in parts for name in part.metrics],
        config_keys=[name for part in parts for name in part.config_keys],
        result_keys=[name for part in parts for name in part.result_keys],
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


def _result_keys(result: Any) -> Iterable[str]:
    from incasem_like.tracking.summaries import flatten

    return flatten(result) if isinstance(result, Mapping) else ()


def _known_keys(stores: Sequence[RunStore], asked: Sequence[str]) -> list[str]:
    """The configuration keys of the newest and oldest runs, where a name may be one."""
    from incasem_like.tracking.summaries import flatten

    if not any(map(may_be_config, asked)):
        return []
    keys: set[str] = set()
    for store in stores:
        ids = store.ids()
        for run_id in dict.fromkeys([*ids[:_OLDEST_READ], *ids[-_NEWEST_READ:]]):
            with contextlib.suppress(StoreError):  # a damaged record is listed as such, and knows no keys
                keys |= flatten((store.read_document(run_id) or {}).get("config")).keys()
    return sorted(keys)


def _find_leniently(name: str, vocabularies: Mapping[str, Vocabulary]) -> Field | None:
    try:
        return _find(name, vocabularies)
    except InputError:
        return None


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
