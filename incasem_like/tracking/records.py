"""What a store knows of a run: its record, its checkpoints and its metrics."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import CheckpointError, RunNotFoundError
from incasem_like.terminal import nearest

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore

_BYTES_AT_ONCE = 1 << 20


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BYTES_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class CheckpointRecord:
    """A checkpoint as the run registered it.

    Attributes:
        iteration: Number of updates the network had seen.
        path: Where the file is, absolute; follows a training_runs folder that was moved.
        sha256: Of the file's content when it was registered.
        bytes: Length of the file.
        metrics: Validation metrics at that iteration, by name.
    """

    iteration: int
    path: Path
    sha256: str
    bytes: int
    metrics: dict[str, float] = field(default_factory=dict)

    def verify(self) -> Path:
        """Hold the file against what was tracked and return its path.

        Raises:
            CheckpointError: The file is missing or is not the one that was tracked.
        """
        if not self.path.is_file():
            raise CheckpointError(
                f"The checkpoint {self.path} does not exist any more: restore it, or choose another one of the run's."
            )
        size = self.path.stat().st_size
        found = f"{size} bytes, not {self.bytes}" if size != self.bytes else ""
        if not found and (digest := file_sha256(self.path)) != self.sha256:
            found = f"SHA-256 {digest[:12]}…, not {self.sha256[:12]}…"
        if found:
            raise CheckpointError(
                f"The checkpoint {self.path} changed after it was tracked ({found}): restore the file, or choose another "
                "one of the run's."
            )
        return self.path


@dataclass(frozen=True)
class Metric:
    """One metric over a run: a value and a UTC time at each step, in the order they were logged."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    timestamps: tuple[datetime, ...]


class RunRecord:
    """A run as its store has it now; of a run that still goes on, the state at its last heartbeat.

    Args:
        store: Where artifacts and metrics are fetched from when asked for.
        run_id: The run's id in that store.
        document: The run's document with plain values: config, status, info, result, experiment, meta, host, artifacts
            (their names), captured_out, fail_trace and the times.
    """

    def __init__(self, store: RunStore, run_id: int, document: dict[str, Any]) -> None:
        self.store, self.id, self._document = store, run_id, document

    def __repr__(self) -> str:
        return f"RunRecord({self.id}, {self.status}, {self.store.description!r})"

    @property
    def kind(self) -> str:
        """What kind of run it is: trainings, predictions, segmentations or evaluations."""
        return self.store.kind

    @property
    def name(self) -> str:
        """The name given with ``--name``, else that of the script."""
        options = self.meta.get("options") or {}
        return str(options.get("--name") or self._document.get("experiment", {}).get("name") or "")

    @property
    def comment(self) -> str:
        """The comment given with ``--comment``."""
        return str(self.meta.get("comment") or "")

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration of the run."""
        return dict(self._document.get("config") or {})

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, FAILED or INTERRUPTED."""
        return str(self._document.get("status"))

    @property
    def info(self) -> dict[str, Any]:
        """What the run noted of itself: inputs, parent, checkpoints and more."""
        return dict(self._document.get("info") or {})

    @property
    def result(self) -> Any:
        """What the run came to, or None."""
        return self._document.get("result")

    @property
    def experiment(self) -> dict[str, Any]:
        """Script, sources, dependencies and repositories (URL, commit, dirty)."""
        return dict(self._document.get("experiment") or {})

    @property
    def host(self) -> dict[str, Any]:
        """The machine, the process id and the boot it ran in."""
        return dict(self._document.get("host") or {})

    @property
    def meta(self) -> dict[str, Any]:
        """The command, its options and the comment."""
        return dict(self._document.get("meta") or {})

    @property
    def captured_output(self) -> str:
        """What the run printed."""
        return str(self._document.get("captured_out") or "")

    @property
    def fail_trace(self) -> str:
        """The traceback of a failed run."""
        return "".join(self._document.get("fail_trace") or ())

    @property
    def start_time(self) -> datetime | None:
        """When the run started."""
        return _utc(self._document.get("start_time"))

    @property
    def stop_time(self) -> datetime | None:
        """When the run stopped, or None."""
        return _utc(self._document.get("stop_time"))

    @property
    def heartbeat(self) -> datetime | None:
        """When the run was last heard of."""
        return _utc(self._document.get("heartbeat"))

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The data the run read, as it registered them."""
        return list(self.info.get("inputs") or [])

    @property
    def parent(self) -> Any:
        """The run that this one came from, or None."""
        return self.info.get("parent")

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Names of the files stored with the run."""
        return tuple(self._document.get("artifacts") or ())

    def artifact(self, name: str) -> bytes:
        """Fetch the content of a file stored with the run.

        Raises:
            RunNotFoundError: The run has no artifact of that name.
        """
        if name not in self.artifacts:
            has = f"it has {', '.join(self.artifacts)}" if self.artifacts else "it has none"
            raise RunNotFoundError(
                f"Run {self.id} in {self.store.description} has no artifact '{name}'{nearest(name, self.artifacts)}: "
                f"{has}."
            )
        return self.store.read_artifact(self.id, name)

    @property
    def metrics(self) -> dict[str, Metric]:
        """All metrics by name, at full length as the store has them."""
        return self.store.read_metrics(self.id)

    @property
    def checkpoints(self) -> list[CheckpointRecord]:
        """The checkpoints that the run registered and kept, by iteration."""
        entries = self.info.get("checkpoints") or []
        records = [
            CheckpointRecord(
                entry["iteration"],
                self._locate(entry["path"]),
                entry["sha256"],
                entry["bytes"],
                entry.get("metrics") or {},
            )
            for entry in entries
        ]
        return sorted(records, key=lambda record: record.iteration)

    def checkpoint(self, which: str | int, *, metric: str | None = None, mode: str | None = None) -> CheckpointRecord:
        """Choose one of the run's checkpoints.

        Args:
            which: ``best``, ``last``, an iteration, or the path of a file that the run registered.
            metric: What ``best`` goes by; by default the run's ``training.checkpoints.best_metric``.
            mode: ``max`` or ``min``; by default the run's ``training.checkpoints.best_mode``.

        Raises:
            CheckpointError: The run has no such checkpoint; the message lists those it has.
        """
        records = self.checkpoints
        if not records:
            raise CheckpointError(
                f"Run {self.id} in {self.store.description} ({self.status}) has no checkpoint: choose another run."
            )
        if which == "last":
            return records[-1]
        if which == "best":
            return self._best(records, metric, mode)
        text = str(which)
        for record in records:
            if (text.isdigit() and int(text) == record.iteration) or (
                not text.isdigit() and Path(text).absolute() == record.path
            ):
                return record
        raise CheckpointError(
            f"Run {self.id} in {self.store.description} has no checkpoint '{which}': "
            f"choose best, last or one of the iterations {listed([record.iteration for record in records])}."
        )

    def _best(self, records: list[CheckpointRecord], metric: str | None, mode: str | None) -> CheckpointRecord:
        policy = (self.config.get("training") or {}).get("checkpoints") or {}
        metric = metric or policy.get("best_metric")
        sign = -1.0 if (mode or policy.get("best_mode", "max")) == "min" else 1.0
        measured = [
            record
            for record in records
            if metric in record.metrics and record.metrics[metric] == record.metrics[metric]
        ]
        if not measured:
            known = sorted({name for record in records for name in record.metrics})
            raise CheckpointError(
                f"No checkpoint of run {self.id} was measured by '{metric}' (known: {', '.join(known) or 'none'}): "
                f"choose last or one of the iterations {listed([record.iteration for record in records])}."
            )
        return max(measured, key=lambda record: (sign * record.metrics[str(metric)], record.iteration))

    def _locate(self, path: str) -> Path:
        """Follow a path as registered: below this store's runs directory first, else where the run had written it."""
        here = self.store.runs_directory / path
        recorded = self.info.get("runs_directory")
        if not here.exists() and recorded and (Path(recorded) / path).exists():
            return Path(recorded) / path
        return here


def listed(numbers: list[int]) -> str:
    """Write sorted numbers for a message: all of them, or the first and last few."""
    if len(numbers) <= 8:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:3]))}, … {', '.join(map(str, numbers[-3:]))}"


def _utc(value: Any) -> datetime | None:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return None
