"""The fields of a run that can be shown, sorted by and compared with, and those that every run has."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.summaries import flatten

if TYPE_CHECKING:
    from incasem_like.tracking.model.summaries import RunSummary

Quantity = Literal["plain", "time", "seconds", "bytes", "status"]
_LOWER = re.compile(r"loss|error|distance|voi|nvi|\bnid\b|edits|hausdorff|arand|cremi", re.IGNORECASE)
_HIGHER = re.compile(
    r"dice|jaccard|iou|precision|recall|f1|f_score|accuracy|auc|rand_index|panoptic|mean_ap|erl\b|run_length",
    re.IGNORECASE,
)
ORGANELLE = "organelle"
# Of a dataset such as volumes/labels/er or volumes/labels/mito_corrected the last part names the organelle.
_LABELS = re.compile(r"(?:^|/)labels?/([^/]+)/?$")


@dataclass(frozen=True)
class Field:
    """Something that runs have a value of.

    Attributes:
        name: As a person wrote it; heads the column.
        meaning: The whole name of what is meant: ``training.optimizer.lr``, ``dice_class_1.max``.
        read: Returns a run's value: None where it has none, a tuple where it has several (tags).
        needs_inputs: Whether ``read`` needs the run's inputs.
        metric: The metric that it is a value of, if it is one.
    """

    name: str
    meaning: str
    read: Callable[[RunSummary], Any]
    quantity: Quantity = "plain"
    needs_inputs: bool = False
    metric: str | None = None


def better(metric: str) -> Literal["max", "min"] | None:
    """Return whether the largest or the smallest value of a metric is best; None where its name does not tell."""
    if _LOWER.search(metric):
        return "min"
    return "max" if _HIGHER.search(metric) else None


def config_field(name: str, key: str) -> Field:
    """The value of a configuration key."""
    return Field(name, key, lambda run: run.config.get(key))


def result_field(name: str, key: str) -> Field:
    """A value of what the run came to, by its dotted key."""
    return Field(name, f"result.{key}", lambda run: flatten(run.result).get(key))


def metric_field(name: str, metric: str, value: str | None = None) -> Field:
    """A metric's ``last``, ``min`` or ``max`` in a run; by default its best, or its last where none is better."""
    chosen = value or better(metric) or "last"

    def read(run: RunSummary) -> float | None:
        found = run.summary.get(metric, {}).get(chosen)
        return found if isinstance(found, (int, float)) and not math.isnan(found) else None

    return Field(name, f"{metric}.{chosen}", read, metric=metric)


def seconds_taken(run: RunSummary) -> float | None:
    """How long a run took, or takes since: up to its end, its last sign of life, or now; seconds."""
    if run.start_time is None:
        return None
    now = datetime.now(UTC) if run.status == "RUNNING" else None
    end = run.stop_time or now or run.heartbeat
    return None if end is None else max((end - run.start_time).total_seconds(), 0.0)


def organelle_labels(run: RunSummary) -> tuple[str, ...]:
    """The names of the label datasets that a run read: ``…/labels/er`` names ``er``."""
    labels = [found[1] for address in input_addresses(run) if (found := _LABELS.search(address))]
    return tuple(dict.fromkeys(labels))


def input_addresses(run: RunSummary) -> list[str]:
    """The datasets that a run read, one by one."""
    found: list[str] = []
    for entry in run.inputs:
        if entry.get("address"):
            found.append(str(entry["address"]))
        hashes = entry.get("content_hashes")
        found += list(map(str, hashes)) if isinstance(hashes, Mapping) else []
    return found


def _data(run: RunSummary) -> tuple[str, ...]:
    """Names of the data-config entries, else of the containers."""
    names = []
    for entry in run.inputs:
        place = str(entry.get("file") or entry.get("address") or "")
        container = next((part for part in PurePosixPath(place).parts if part.endswith((".zarr", ".n5"))), place)
        names.append(str(entry.get("name") or container))
    return tuple(dict.fromkeys(names))


def _parent(run: RunSummary) -> tuple[str, ...]:
    return tuple(f"{singular(kind)} {number}" for kind, number in run.parents)


def _iteration(run: RunSummary) -> int | None:
    reached = run.result.get("iteration") if isinstance(run.result, Mapping) else None
    return reached or (run.checkpoints[-1].iteration if run.checkpoints else None)


_COMMON = (
    Field("id", "id", lambda run: run.id),
    Field("kind", "kind", lambda run: singular(run.kind)),
    Field("name", "name", lambda run: run.name or None),
    Field("command", "command", lambda run: run.command or None),
    Field("status", "status", lambda run: run.status, "status"),
    Field("started", "start time", lambda run: run.start_time, "time"),
    Field("stopped", "stop time", lambda run: run.stop_time, "time"),
    Field("heartbeat", "last sign of life", lambda run: run.heartbeat, "time"),
    Field("took", "duration", seconds_taken, "seconds"),
    Field("host", "machine", lambda run: run.hostname or None),
    Field("comment", "comment", lambda run: run.comment or None),
    Field("tags", "tags", lambda run: run.tags),
    Field("notes", "notes", lambda run: run.notes or None),
    Field("result", "result", lambda run: run.result),
    Field("parent", "run it came from", _parent),
    Field("iteration", "last iteration", _iteration),
    Field("checkpoints", "number of checkpoints", lambda run: len(run.checkpoints)),
    Field("size", "bytes of the checkpoints", lambda run: sum(c.bytes for c in run.checkpoints), "bytes"),
    Field("data", "entries of the data configuration", _data, needs_inputs=True),
    Field(ORGANELLE, "organelle", lambda run: organelle_labels(run) or run.tags, needs_inputs=True),
)
COMMON_FIELDS: Mapping[str, Field] = {field.name: field for field in _COMMON}
ALIASES = {
    "tag": "tags",
    "note": "notes",
    "start_time": "started",
    "stop_time": "stopped",
    "hostname": "host",
    "duration": "took",
    "run_id": "id",
}
