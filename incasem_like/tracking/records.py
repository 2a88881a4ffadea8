"""What a store knows of a run: its record and its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import RunNotFoundError
from incasem_like.terminal import nearest
from incasem_like.tracking.checkpoints import (
    EARLIER_FOLDERS,
    CheckpointRecord,
    Places,
    choose_checkpoint,
    is_checkpoint_entry,
)
from incasem_like.tracking.liveness import find_process, honest_status
from incasem_like.tracking.moments import utc_moment
from incasem_like.tracking.summaries import as_mapping, as_sequence

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore


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
    def document(self) -> dict[str, Any]:
        """All that its store has of it but metrics and files, as plain values."""
        return dict(self._document)

    @property
    def name(self) -> str:
        """The name given with ``--name``, else that of the script."""
        options = as_mapping(self.meta.get("options"))
        return str(options.get("--name") or self.experiment.get("name") or "")

    @property
    def comment(self) -> str:
        """The comment given with ``--comment``."""
        return str(self.meta.get("comment") or "")

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration of the run."""
        return dict(as_mapping(self._document.get("config")))

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, FAILED or INTERRUPTED; KILLED when it says RUNNING and its process is gone."""
        return honest_status(self.recorded_status, self.host, self.heartbeat, self.start_time)

    @property
    def recorded_status(self) -> str:
        """What the run last said of itself."""
        return str(self._document.get("status") or "")

    @property
    def seems_dead(self) -> bool:
        """Whether it says RUNNING and looks dead by the clocks of two machines alone, so that it may well live."""
        if self.recorded_status != "RUNNING" or self.status == "RUNNING":
            return False
        return find_process(self.host, self.heartbeat, self.start_time) is None

    @property
    def info(self) -> dict[str, Any]:
        """What the run noted of itself: inputs, parent, checkpoints and more."""
        return dict(as_mapping(self._document.get("info")))

    @property
    def result(self) -> Any:
        """What the run came to, or None."""
        return self._document.get("result")

    @property
    def experiment(self) -> dict[str, Any]:
        """Script, sources, dependencies and repositories (URL, commit, dirty)."""
        return dict(as_mapping(self._document.get("experiment")))

    @property
    def host(self) -> dict[str, Any]:
        """The machine, the process id and the boot it ran in."""
        return dict(as_mapping(self._document.get("host")))

    @property
    def meta(self) -> dict[str, Any]:
        """The command, its options and the comment."""
        return dict(as_mapping(self._document.get("meta")))

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
        return utc_moment(self._document.get("start_time"))

    @property
    def stop_time(self) -> datetime | None:
        """When the run stopped, or None."""
        return utc_moment(self._document.get("stop_time"))

    @property
    def heartbeat(self) -> datetime | None:
        """When the run was last heard of."""
        return utc_moment(self._document.get("heartbeat"))

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The data the run read, as it registered them."""
        return list(self.info.get("inputs") or [])

    @property
    def parent(self) -> Any:
        """The run that this one came from, or None."""
        return self.info.get("parent")

    @property
    def tags(self) -> tuple[str, ...]:
        """Words that people gave the run to find it by, here or in Omniboard."""
        tags = as_mapping(self._document.get("omniboard")).get("tags") or ()
        return tuple(tag for tag in tags if isinstance(tag, str))

    @property
    def notes(self) -> str:
        """What people noted of the run, here or in Omniboard."""
        return str(as_mapping(self._document.get("omniboard")).get("notes") or "")

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
        entries = filter(is_checkpoint_entry, as_sequence(self.info.get("checkpoints")))
        records = [CheckpointRecord.from_entry(entry, self._places) for entry in entries]
        return sorted(records, key=lambda record: record.iteration)

    @property
    def superseded_checkpoints(self) -> list[CheckpointRecord]:
        """Checkpoints that the run keeps no more, but the store still has while the better one is not in it."""
        registered = self.checkpoints
        newest = registered[-1].iteration if registered else -1
        known = {record.sha256 for record in registered}
        copies = [copy for copy in self._places.stored.values() if copy.entry and copy.sha256 not in known]
        records = [CheckpointRecord.from_entry(copy.entry, self._places) for copy in copies]
        # A newer one was withdrawn when the run was continued from before it.
        return sorted((one for one in records if one.iteration < newest), key=lambda record: record.iteration)

    def checkpoint(self, which: str | int, *, metric: str | None = None, mode: str | None = None) -> CheckpointRecord:
        """Choose one of the run's checkpoints.

        ``best`` and ``last`` pass over those that can be had neither on this machine nor in the store, with a warning.

        Args:
            which: ``best``, ``last``, an iteration, or the path of a file that the run registered.
            metric: What ``best`` goes by; by default the run's ``training.checkpoints.best_metric``.
            mode: ``max`` or ``min``; by default the run's ``training.checkpoints.best_mode``.

        Raises:
            CheckpointError: The run has no such checkpoint; the message lists those it has.
        """
        policy = (self.config.get("training") or {}).get("checkpoints") or {}
        return choose_checkpoint(
            self.checkpoints,
            which,
            metric=metric or policy.get("best_metric"),
            mode=mode or policy.get("best_mode") or "max",
            run=f"run {self.id} in {self.store.description} ({self.status})",
            superseded=lambda: self.superseded_checkpoints,
        )

    @cached_property
    def _places(self) -> Places:
        noted = [self.info.get("runs_directory"), *reversed(self.info.get(EARLIER_FOLDERS) or [])]
        return Places(
            self.id,
            [self.store.runs_directory, *(Path(folder) for folder in noted if folder)],
            str(self.host.get("hostname") or ""),
            self.store.checkpoint_files,
            self.store.description,
        )
