"""Runs in brief, as lists, comparisons and lineages want them: made of the few fields that matter of each document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

DAMAGED = "DAMAGED"
ALL_KEYS = "*"


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


def flatten(config: Any) -> dict[str, Any]:
    """Spread a configuration out: ``{"training": {"iterations": 3}}`` becomes ``{"training.iterations": 3}``."""
    return dict(_leaves(as_mapping(config), ""))


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


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value and not any(str(inner).startswith("py/") for inner in value):
            yield from _leaves(value, path)
        else:
            yield path, unpickled(value)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Take a value for a mapping; an empty one where it is something else."""
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def as_sequence(value: Any) -> Sequence[Any]:
    """Take a value for a list; an empty one where it is something else."""
    return value if isinstance(value, (list, tuple)) else ()
