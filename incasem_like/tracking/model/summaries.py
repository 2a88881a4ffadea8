"""Runs in brief, for lists, comparisons and lineages: made of the few fields of each document that these need."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from incasem_like.tracking.kinds import KINDS_BY_KEY, kind_named
from incasem_like.tracking.liveness import honest_status
from incasem_like.tracking.values import as_mapping, as_sequence, is_number, utc_moment

DAMAGED = "DAMAGED"
ALL_KEYS = "*"
_HOST_FIELDS = ("hostname", "pid", "boot_id", "pid_namespace", "process_start", "process_ticks")
TIMES = ("start_time", "stop_time", "heartbeat")
# What incasem's own trainings and predictions say of where they come from; they note nothing in info.
PARENTS_IN_CONFIG = ("prediction.run_id_training", "training.start_from", "training.continue_id")


def origins(parent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List what a run notes under ``parent``, a mapping for each run: itself, or its ``members``."""
    members = parent.get("members")
    listed = [member for member in members if isinstance(member, Mapping)] if isinstance(members, list) else []
    return listed or [parent]


def named_runs(origin: Mapping[str, Any]) -> list[tuple[str, int]]:
    """List the runs, as pairs of kind and id, that one of these names."""
    ids = ((kind, origin.get(key)) for key, kind in KINDS_BY_KEY.items())
    return [(kind, number) for kind, number in ids if type(number) is int and number >= 1]


class CheckpointSummary(NamedTuple):
    """A registered checkpoint: iteration, path as registered (relative to the runs directory), SHA-256, bytes."""

    iteration: int
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in brief.

    Attributes:
        kind: One of ``KINDS``.
        id: Its id among the runs of that kind.
        name: Given with ``--name``, else the experiment's.
        command: What was run: ``train``, ``predict``.
        status: KILLED for a run that says RUNNING and whose process is gone, DAMAGED for one that cannot be read.
        recorded_status: What the run last said of itself.
        start_time: UTC, as the other two times; None where unknown.
        stop_time: None while the run is active, or where it could not be recorded.
        heartbeat: The last one.
        host: hostname, pid, boot_id and so on, as far as recorded.
        comment: Given with ``--comment``.
        tags: As Omniboard shows them.
        notes: As Omniboard shows them.
        result: What the run came to.
        summary: Of each metric ``last``, ``last_step``, ``min``, ``min_step``, ``max``, ``max_step``.
        parent: What the run noted of where it came from (``training_run_id``, ``sha256``, …), or None.
        parents: The runs that it came from, as pairs of kind and id.
        inputs: The data it read, as registered; only where they were asked for.
        checkpoints: Those it registered and kept, by iteration.
        config: What was asked for of its configuration, by dotted key.
        damage: What is wrong with the record of a DAMAGED run.
    """

    kind: str
    id: int
    name: str = ""
    command: str = ""
    status: str = ""
    recorded_status: str = ""
    start_time: datetime | None = None
    stop_time: datetime | None = None
    heartbeat: datetime | None = None
    host: Mapping[str, Any] = field(default_factory=dict)
    comment: str = ""
    tags: tuple[str, ...] = ()
    notes: str = ""
    result: Any = None
    summary: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parent: Any = None
    parents: tuple[tuple[str, int], ...] = ()
    inputs: tuple[Mapping[str, Any], ...] = ()
    checkpoints: tuple[CheckpointSummary, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    damage: str = ""

    @property
    def hostname(self) -> str:
        """The machine it ran on, or an empty text."""
        return str(self.host.get("hostname") or "")


def flatten(config: Any) -> dict[str, Any]:
    """Spread a configuration out: ``{"training": {"iterations": 3}}`` becomes ``{"training.iterations": 3}``."""
    return dict(_leaves(as_mapping(config), ""))


def differing(columns: Sequence[Mapping[str, Any]], absent: Any = None) -> dict[str, list[Any]]:
    """Return the keys in which flat configurations differ, with each one's value; ``absent`` where it has none."""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = {key: [column.get(key, absent) for column in columns] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def select(flat: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Choose leaves of a configuration by dotted keys, their ends (``lr``), or those of sections; ``*`` for all."""
    wanted = tuple(names)
    if ALL_KEYS in wanted:
        return dict(flat)
    starts, ends = tuple(f"{name}." for name in wanted), tuple(f".{name}" for name in wanted)
    return {key: flat[key] for key in flat if key in wanted or key.startswith(starts) or key.endswith(ends)}


def unpickled(value: Any) -> Any:
    """Turn what Sacred's serializer made of NumPy scalars, tuples and other objects into plain values."""
    if isinstance(value, Mapping):
        if "py/object" in value and "value" in value:
            return unpickled(value["value"])
        if "py/tuple" in value:
            return unpickled(value["py/tuple"])
        return {str(key): unpickled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [unpickled(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value and not any(str(inner).startswith("py/") for inner in value):
            yield from _leaves(value, path)
        else:
            yield path, unpickled(value)


def condense(document: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a run's document to what a summary is made of: plain values, and ``TIMES`` in UTC, whatever was recorded.

    Sacred or this package wrote it, whole or projected; fields may be missing or of odd types.
    """
    experiment, meta, host, info = (as_mapping(document.get(key)) for key in ("experiment", "meta", "host", "info"))
    noted = as_mapping(document.get("omniboard"))
    options = as_mapping(meta.get("options"))
    checkpoints = []
    for entry in map(as_mapping, as_sequence(info.get("checkpoints"))):
        iteration, path, sha256, size = (entry.get(key) for key in CheckpointSummary._fields)
        if _is_id(iteration, 0):
            checkpoints.append([iteration, _text(path), _text(sha256), size if isinstance(size, int) else 0])
    return {
        "name": _text(options.get("--name") or experiment.get("name")),
        "command": _text(document.get("command") or meta.get("command")),
        "recorded_status": _text(document.get("status")),
        **{key: utc_moment(document.get(key)) for key in TIMES},
        "host": {key: host[key] for key in _HOST_FIELDS if isinstance(host.get(key), (str, int, float))},
        "comment": _text(meta.get("comment") or options.get("--comment")),
        "tags": [tag for tag in as_sequence(noted.get("tags")) if isinstance(tag, str)],
        "notes": _text(noted.get("notes")),
        "result": unpickled(document.get("result")),
        "summary": {str(name): dict(one) for name, one in as_mapping(info.get("summary")).items() if as_mapping(one)},
        "parent": unpickled(info.get("parent")),
        "parents": _parents(info, as_mapping(document.get("config"))),
        "checkpoints": sorted(checkpoints, key=lambda entry: entry[0]),
    }


def summarize(
    kind: str,
    run_id: int,
    condensed: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    inputs: Sequence[Any] = (),
) -> RunSummary:
    """Make a summary of what ``condense`` gave; whether a run still lives is found out now."""
    fields = dict(condensed)
    parents = fields["parents"] = tuple((kind, number) for kind, number in condensed["parents"])
    if fields["parent"] is None and parents:
        fields["parent"] = {kind_named(parents[0][0]).parent_key: parents[0][1]}
    fields["tags"] = tuple(condensed["tags"])
    fields["checkpoints"] = tuple(CheckpointSummary(*entry) for entry in condensed["checkpoints"])
    return RunSummary(
        kind,
        run_id,
        status=honest_status(fields["recorded_status"], fields["host"], fields["heartbeat"], fields["start_time"]),
        inputs=tuple(item for item in inputs if isinstance(item, Mapping)),
        config=config or {},
        **fields,
    )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Pause garbage collection while very many small objects are made; it would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def summary_of_points(steps: Any, values: Any) -> dict[str, float]:
    """Sum a metric up by its points, for runs that note no summary themselves; empty where there is nothing to say."""
    pairs = list(zip(map(unpickled, as_sequence(steps)), map(unpickled, as_sequence(values)), strict=False))
    numbers = [(step, value) for step, value in pairs if is_number(step) and is_number(value)]
    if not numbers:
        return {}
    found = {"last": numbers[-1][1], "last_step": numbers[-1][0]}
    comparable = [pair for pair in numbers if not math.isnan(pair[1])]
    if comparable:
        lowest, highest = min(comparable, key=lambda pair: pair[1]), max(comparable, key=lambda pair: pair[1])
        found |= {"min": lowest[1], "min_step": lowest[0], "max": highest[1], "max_step": highest[0]}
    return found


def _parents(info: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, int]]:
    noted = [*origins(as_mapping(info.get("parent"))), {key: info.get(key) for key in KINDS_BY_KEY}]
    found = list(dict.fromkeys(parent for one in noted for parent in named_runs(one)))
    if found or "parent" in info:
        return found
    training, prediction = as_mapping(config.get("training")), as_mapping(config.get("prediction"))
    start_from = as_sequence(unpickled(training.get("start_from")))
    for number in (prediction.get("run_id_training"), *start_from[:1], training.get("continue_id")):
        if _is_id(number):
            return [("trainings", int(number))]
    return []


def _is_id(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
