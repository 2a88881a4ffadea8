"""Runs in brief, as lists, comparisons and lineages want them: made of the few fields that matter of each document."""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from incasem_like.tracking.liveness import is_alive

DAMAGED = "DAMAGED"
ALL_KEYS = "*"
_POINTS = ("last", "last_step", "min", "min_step", "max", "max_step")
_HOST_FIELDS = ("hostname", "pid", "boot_id", "pid_namespace", "process_start")
_CHECKPOINT_FIELDS = ("iteration", "path", "sha256", "bytes")
# What incasem's own trainings and predictions say of where they come from; they note nothing in info.
PARENTS_IN_CONFIG = ("prediction.run_id_training", "training.start_from", "training.continue_id")


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
        kind: trainings, predictions, segmentations, evaluations or bootstrapping.
        id: Its id among the runs of that kind.
        name: Given with ``--name``, else the experiment's.
        command: What was run: ``train``, ``predict``.
        status: KILLED for a run that says RUNNING and whose process is gone, DAMAGED for one that cannot be read.
        recorded_status: What the run last said of itself.
        start_time: UTC, as the other two times; None where unknown.
        stop_time: None while the run goes on, or when it could not say.
        heartbeat: When it was last heard of.
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


def condense(document: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a run's document to what a summary is made of: plain values and times in UTC, whatever was recorded.

    Args:
        document: As Sacred or this package wrote it, whole or projected; fields may be missing or of odd types.
    """
    experiment, meta, host, info = (_mapping(document.get(key)) for key in ("experiment", "meta", "host", "info"))
    noted = _mapping(document.get("omniboard"))
    options = _mapping(meta.get("options"))
    return {
        "name": _text(options.get("--name") or experiment.get("name")),
        "command": _text(document.get("command") or meta.get("command")),
        "status": _text(document.get("status")),
        "times": [_moment(document.get(key)) for key in ("start_time", "stop_time", "heartbeat")],
        "host": {key: host[key] for key in _HOST_FIELDS if isinstance(host.get(key), (str, int, float))},
        "comment": _text(meta.get("comment") or options.get("--comment")),
        "tags": [tag for tag in _sequence(noted.get("tags")) if isinstance(tag, str)],
        "notes": _text(noted.get("notes")),
        "result": unpickled(document.get("result")),
        "summary": _metric_summaries(info.get("summary")),
        "parent": unpickled(info.get("parent")),
        "parents": _parents(info, _mapping(document.get("config"))),
        "checkpoints": list(_checkpoint_fields(info.get("checkpoints"))),
    }


def summarize(
    kind: str,
    run_id: int,
    condensed: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    inputs: Sequence[Any] = (),
) -> RunSummary:
    """Make a summary of what ``condense`` gave; whether a run still lives is found out now."""
    start, stop, heartbeat = condensed["times"]
    parents = tuple((kind, number) for kind, number in condensed["parents"])
    parent = condensed["parent"]
    if parent is None and parents:
        parent = {f"{parents[0][0][:-1]}_run_id": parents[0][1]}
    return RunSummary(
        kind,
        run_id,
        condensed["name"],
        condensed["command"],
        honest_status(condensed["status"], condensed["host"], heartbeat, start),
        condensed["status"],
        start,
        stop,
        heartbeat,
        condensed["host"],
        condensed["comment"],
        tuple(condensed["tags"]),
        condensed["notes"],
        condensed["result"],
        condensed["summary"],
        parent,
        parents,
        tuple(item for item in inputs if isinstance(item, Mapping)),
        tuple(CheckpointSummary(*entry) for entry in condensed["checkpoints"]),
        config or {},
    )


class PackedSummaries(Mapping[str, Mapping[str, float]]):
    """Summaries of metrics that are unpacked when asked for: most lists of runs show few or none of them.

    Args:
        text: What ``pack`` gave.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def pack(cls, summaries: Mapping[str, Mapping[str, Any]]) -> str:
        """Write summaries of metrics in few characters."""
        packed = {name: [summary.get(key) for key in _POINTS] for name, summary in summaries.items()}
        return json.dumps(packed, separators=(",", ":"))

    @cached_property
    def _unpacked(self) -> dict[str, dict[str, float]]:
        return {
            name: {key: value for key, value in zip(_POINTS, values, strict=True) if value is not None}
            for name, values in json.loads(self._text).items()
        }

    def __getitem__(self, name: str) -> Mapping[str, float]:
        """Unpack one metric alone: lists that sort or filter by it read that of every run."""
        for before in ",{":
            _, found, after = self._text.partition(f"{before}{json.dumps(name)}:[")
            if found:
                values = json.loads(f"[{after.partition(']')[0]}]")
                return {key: value for key, value in zip(_POINTS, values, strict=True) if value is not None}
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpacked)

    def __len__(self) -> int:
        return len(self._unpacked)

    def __repr__(self) -> str:
        return repr(self._unpacked)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python from looking for garbage while very many small objects are made, which takes half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def honest_status(
    recorded: str, host: Mapping[str, Any], heartbeat: datetime | None, start: datetime | None = None
) -> str:
    """Give the state of a run: as recorded, but KILLED for one that says RUNNING and whose process is gone."""
    if recorded != "RUNNING":
        return recorded or "UNKNOWN"
    try:
        alive = is_alive(host, heartbeat, start)
    except (TypeError, ValueError):  # a process id that is no number
        alive = is_alive({}, heartbeat, start)
    return recorded if alive else "KILLED"


def damaged(kind: str, run_id: int, damage: str) -> RunSummary:
    """Make the summary of a run whose record cannot be read."""
    return RunSummary(kind, run_id, status=DAMAGED, recorded_status="", damage=damage)


def flatten(config: Any) -> dict[str, Any]:
    """Spread a configuration out: ``{"training": {"iterations": 3}}`` becomes ``{"training.iterations": 3}``."""
    return dict(_leaves(_mapping(config), ""))


def select(flat: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Choose leaves of a configuration by their dotted keys, or by those of sections; ``*`` chooses all."""
    wanted = tuple(keys)
    if ALL_KEYS in wanted:
        return dict(flat)
    if all(key in flat for key in wanted):
        return {key: flat[key] for key in wanted}
    return {key: value for key, value in flat.items() if any(key == one or key.startswith(f"{one}.") for one in wanted)}


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


def summary_of_points(steps: Any, values: Any) -> dict[str, float]:
    """Sum a metric up by its points, for runs that note no summary themselves; empty where there is nothing to say."""
    pairs = list(zip(map(unpickled, _sequence(steps)), map(unpickled, _sequence(values)), strict=False))
    numbers = [(step, value) for step, value in pairs if _is_number(step) and _is_number(value)]
    if not numbers:
        return {}
    found = {"last": numbers[-1][1], "last_step": numbers[-1][0]}
    comparable = [pair for pair in numbers if not math.isnan(pair[1])]
    if comparable:
        lowest, highest = min(comparable, key=lambda pair: pair[1]), max(comparable, key=lambda pair: pair[1])
        found |= {"min": lowest[1], "min_step": lowest[0], "max": highest[1], "max_step": highest[0]}
    return found


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value and not any(str(inner).startswith("py/") for inner in value):
            yield from _leaves(value, path)
        else:
            yield path, unpickled(value)


def _parents(info: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, int]]:
    noted = {**_mapping(info.get("parent"))}
    if "prediction_run_id" in info:
        noted.setdefault("prediction_run_id", info["prediction_run_id"])
    kinds = {"training_run_id": "trainings", "prediction_run_id": "predictions", "segmentation_run_id": "segmentations"}
    found = [(kind, noted[key]) for key, kind in kinds.items() if _is_id(noted.get(key))]
    if found or "parent" in info:
        return found
    training, prediction = _mapping(config.get("training")), _mapping(config.get("prediction"))
    start_from = _sequence(unpickled(training.get("start_from")))
    for number in (prediction.get("run_id_training"), *start_from[:1], training.get("continue_id")):
        if _is_id(number):
            return [("trainings", int(number))]
    return []


def _checkpoint_fields(entries: Any) -> Iterator[list[Any]]:
    found = [entry for entry in _sequence(entries) if isinstance(entry, Mapping) and _is_id(entry.get("iteration"), 0)]
    for entry in sorted(found, key=lambda entry: int(entry["iteration"])):
        iteration, path, sha256, size = (entry.get(key) for key in _CHECKPOINT_FIELDS)
        yield [iteration, _text(path), _text(sha256), size if isinstance(size, int) else 0]


def _metric_summaries(value: Any) -> dict[str, dict[str, Any]]:
    return {str(name): dict(numbers) for name, numbers in _mapping(value).items() if isinstance(numbers, Mapping)}


def _is_id(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _moment(value: Any) -> datetime | None:
    """Read a time, without a time zone as UTC; None for what is no time."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
