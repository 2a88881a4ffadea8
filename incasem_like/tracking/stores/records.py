"""What a store knows of a run, and a store as those who read runs see it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from incasem_like.errors import CheckpointError, InputError, RunNotFoundError, StoreError
from incasem_like.terminal import nearest
from incasem_like.tracking import liveness
from incasem_like.tracking.kinds import KINDS, singular
from incasem_like.tracking.liveness import find_process, honest_status
from incasem_like.tracking.metrics_log import AlreadyWrittenError
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import (
    EARLIER_FOLDERS,
    CheckpointRecord,
    Places,
    StorePolicy,
    is_checkpoint_entry,
    listed,
    rank,
)
from incasem_like.tracking.model.summaries import RunSummary, condense, summarize, summary_of_points
from incasem_like.tracking.run_folder import Journal, RunFolder, Shared
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import as_mapping, as_sequence, as_utc

if TYPE_CHECKING:
    from incasem_like.tracking.stores.gridfs import CheckpointFiles


log = logging.getLogger("incasem_like.tracking")


class RunRecord:
    """A run as its store has it now; of a run that is still running, the state at its last heartbeat.

    It has the attributes of ``RunSummary``, but the whole ``config``, ``checkpoints`` with their files, and ``metrics``
    at full length.

    Args:
        store: Where artifacts and metrics are fetched from when asked for.
        run_id: The run's id in that store.
        document: The run's document with plain values, as ``RunStore.read_document`` returns it.

    Attributes:
        store: Of the run.
        document: All that its store has of it but metrics and files.
        info: What the run noted: inputs, parent, checkpoints and more.
        experiment: Script, sources, dependencies and repositories (URL, commit, dirty).
        host: The machine, the process id and the boot it ran in.
        meta: The command, its options and the comment.
        captured_output: What the run printed.
        fail_trace: The traceback of a failed run.
        artifacts: Names of the files stored with the run.
    """

    def __init__(self, store: StoredRuns, run_id: int, document: dict[str, Any]) -> None:
        self.store, self.id, self.kind, self.document = store, run_id, store.kind, document
        self.config, self.info, self.experiment, self.host, self.meta = (
            dict(as_mapping(document.get(key))) for key in ("config", "info", "experiment", "host", "meta")
        )
        brief = summarize(store.kind, run_id, condense(document))
        self.name, self.comment, self.tags, self.notes = brief.name, brief.comment, brief.tags, brief.notes
        self.start_time, self.stop_time, self.heartbeat = brief.start_time, brief.stop_time, brief.heartbeat
        self.recorded_status, self.result, self.parent = brief.recorded_status, brief.result, self.info.get("parent")
        self.inputs: list[dict[str, Any]] = list(as_sequence(self.info.get("inputs")))
        self.captured_output = str(document.get("captured_out") or "")
        self.fail_trace = "".join(map(str, as_sequence(document.get("fail_trace"))))
        self.artifacts = tuple(map(str, as_sequence(document.get("artifacts"))))

    def __repr__(self) -> str:
        return f"RunRecord({self.id}, {self.status}, {self.store.description!r})"

    @property
    def metric_summaries(self) -> dict[str, dict[str, Any]]:
        """Last, smallest and largest value of each metric with their iterations, in the form of ``info.summary``.

        Runs written by Sacred itself or an earlier version have no summary: it is computed from the metrics.
        """
        noted = self.info.get("summary")
        if isinstance(noted, dict) and noted:
            return noted
        summaries = {name: summary_of_points(one.steps, one.values) for name, one in self.metrics.items()}
        return {name: summary for name, summary in summaries.items() if summary}

    @property
    def status(self) -> str:
        """RUNNING, COMPLETED, FAILED or INTERRUPTED; KILLED when it says RUNNING and its process is gone."""
        return honest_status(self.recorded_status, self.host, self.heartbeat, self.start_time)

    @property
    def seems_dead(self) -> bool:
        """Whether it says RUNNING and looks dead by the clocks of two machines alone, so that it may well live."""
        if self.recorded_status != "RUNNING" or self.status == "RUNNING":
            return False
        return find_process(self.host, self.heartbeat, self.start_time) is None

    def artifact(self, name: str) -> bytes:
        """Fetch the content of a file stored with the run."""
        if name not in self.artifacts:
            raise RunNotFoundError(
                f"Run {self.id} in {self.store.description} has no artifact '{name}'{nearest(name, self.artifacts)}: "
                f"it has {', '.join(self.artifacts) or 'none'}."
            )
        content = dict(self.store.read_stored(self.id, "artifacts", name)).get(name)
        if content is None:
            raise StoreError(
                f"The file {name} of run {self.id} is missing in {self.store.description}: restore it from a backup."
            )
        return content

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

    def checkpoint(self, which: str | int) -> CheckpointRecord:
        """Choose one of the run's checkpoints: an iteration, ``last``, or ``best`` by its configuration.

        ``best`` and ``last`` fall, with a warning, on the next one in line where the first is neither on this machine
        nor in the run store: the machine that trains may have died before it was uploaded. They don't where the file is
        here but changed: that must be seen to. Of equally good ones the latest wins.

        Raises:
            CheckpointError: The run has no such checkpoint; the message lists those it has.
        """
        policy, records = StorePolicy.from_config(self.config), self.checkpoints
        run = f"run {self.id} in {self.store.description} ({self.status})"
        whose, there = f"R{run[1:]}", listed([record.iteration for record in records])
        if not records:
            raise CheckpointError(f"{whose} has no checkpoint: choose another run.")
        if which not in ("best", "last"):
            found = [record for record in records if str(record.iteration) == str(which)]
            found = found or [record for record in self.superseded_checkpoints if str(record.iteration) == str(which)]
            if found:
                return found[0]
            raise CheckpointError(
                f"{whose} has no checkpoint '{which}': choose best, last or one of the iterations {there}."
            )

        def in_line(among: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
            return rank(among, policy.metric, policy.mode) if which == "best" else list(reversed(among))

        ranked = in_line(records)
        if not ranked:
            known = ", ".join(sorted({name for record in records for name in record.metrics})) or "none"
            raise CheckpointError(
                f"{whose} has no checkpoint measured by '{policy.metric}' (metrics known: {known}): choose last or one "
                f"of the iterations {there}."
            )
        wanted = ranked[0]
        if not wanted.is_nowhere():
            return wanted
        # Where none is available, fetching the first reports what is missing
        ranked += in_line(self.superseded_checkpoints)
        chosen = next((record for record in ranked if record.can_be_had()), wanted)
        if chosen is not wanted:
            log.warning(
                "The %s checkpoint of %s, iteration %d, is neither on this machine nor in the run store: iteration %d "
                "is taken, the %s one that can be had.",
                *(which, run, wanted.iteration, chosen.iteration, which),
            )
        return chosen

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


@dataclass(frozen=True)
class ChosenCheckpoint:
    """The chosen weights, as they are now and as the training registered them; the iteration may be unknown."""

    path: Path
    sha256: str
    iteration: int | None


def choose_checkpoint(record: RunRecord, which: str | None) -> ChosenCheckpoint:
    """Find a checkpoint and verify it against what its training run registered.

    ``which`` is ``best``, ``last``, an iteration, or the path of a file; None for the best, or the last where none was
    measured.

    Raises:
        CheckpointError: The checkpoint does not exist, or its file changed since it was tracked.
    """
    if which is None:
        try:
            tracked = record.checkpoint("best")
        except CheckpointError:
            tracked = record.checkpoint("last")
    elif which in ("best", "last") or which.isdigit():
        tracked = record.checkpoint(which)
    else:
        path = Path(which).expanduser().absolute()
        registered = [entry for entry in record.checkpoints if entry.path.resolve() == path.resolve()]
        if not registered:
            if not path.is_file():
                raise CheckpointError(
                    f"The checkpoint {path} does not exist: check the path, or choose best, last or an iteration."
                )
            sha256 = file_sha256(path)
            copied = [entry.iteration for entry in record.checkpoints if entry.sha256 == sha256]
            return ChosenCheckpoint(path, sha256, copied[0] if copied else None)
        tracked = registered[0]
    return ChosenCheckpoint(tracked.fetch(), tracked.sha256, tracked.iteration)


def shared_files(document: Mapping[str, Any], what: Shared) -> list[tuple[str, Any]]:
    """List name and key of the files that a run's document names and that runs share; what makes no sense is left out.

    The key is the path below a store of files, or the id in a database; Sacred notes the MD5 of a resource there.
    """
    owner = document if what == "resources" else as_mapping(document.get("experiment"))
    pairs = (pair for pair in as_sequence(owner.get(what)) if isinstance(pair, (list, tuple)) and len(pair) == 2)
    return [(str(name), key) for name, key in pairs]


class StoredRuns(ABC):
    """Runs of one kind, as far as they are read; methods raise ``StoreError`` if the store does not answer.

    Attributes:
        kind: Of the runs, one of ``KINDS``.
        runs_directory: Paths of checkpoints are kept relative to it, so that it can be moved.
        description: Where the store is, for messages; holds no credentials.
    """

    def __init__(self, kind: str, runs_directory: Path, description: str) -> None:
        self.kind, self.runs_directory, self.description = kind, Path(runs_directory).absolute(), description
        self._silent: dict[int, object] = {}

    @abstractmethod
    def sibling(self, kind: str) -> Self:
        """Open the runs of another kind that are kept in the same place."""

    @abstractmethod
    def ids(self) -> list[int]:
        """List the ids of all runs, sorted."""

    @abstractmethod
    def read_document(self, run_id: int) -> dict[str, Any] | None:
        """Read a run's document with plain values, artifacts by name; None if it does not exist."""

    @abstractmethod
    def summaries(
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        """Summarize all runs, by id, in one pass; one that cannot be read is there as DAMAGED.

        Args:
            config_keys: Keys of the configuration that the summaries hold, see ``select``; ``*`` for all.
            inputs: Whether the summaries hold the inputs, which are bulky.
            metrics: Metrics that are wanted of runs of Sacred's own observers too, which keep no summary of them: from
                MongoDB these are read whole, and only when named here. Other runs have all of theirs anyway.
        """

    @abstractmethod
    def read_stored(
        self, run_id: int, what: Literal["artifacts", "sources", "resources"], only: str | None = None
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield name and content of the files stored with a run, in the order of its document, or of the ``only`` one.

        The content is None for what is lost, or was never stored: Sacred's own observer stores no resources in MongoDB.
        """

    @abstractmethod
    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:
        """Read a run's metrics as the store holds them: steps, values, timestamps, perhaps stride and count, by name.

        Unlike ``read_metrics`` this leaves the log alone, so it has at most as many points as the store keeps.
        """

    @abstractmethod
    def metrics_log(self, run_id: int) -> Path | None:
        """Find the log of a run's metrics at full resolution; None where it is not on this machine, or not whole."""

    @property
    def checkpoint_files(self) -> CheckpointFiles | None:
        """The store's own copies of checkpoints; None for a store that keeps none, as files do."""
        return None

    @property
    def journals(self) -> Iterable[Journal]:
        """What this machine has of runs whose store is elsewhere."""
        return ()

    def push(self, journal: RunFolder, limit: int | None = None) -> str | None:
        """Write what a journal of a run that no process writes holds into the store, and clear it.

        Returns why it was left as it is, or None. ``limit`` is the number of points of each metric in the store; None
        for what the run's configuration says.
        """
        return None

    def pending(self, run_id: int | None = None) -> list[Journal]:
        """List the journals, of all runs or of one, that hold what the store lacks."""
        return [journal for journal in self.journals if journal.is_undelivered and run_id in (None, journal.run_id)]

    def deliver(self, journal: Journal) -> str | None:
        """Push what a journal holds; return why it was left as it is, or None."""
        try:
            journal.log.open()
        except AlreadyWrittenError:
            return "is still running and delivers itself"
        try:
            return self.push(journal)
        finally:
            journal.log.close()

    def read_metrics(self, run_id: int) -> dict[str, Metric]:
        """Read all metrics of a run."""
        found = self.read_metric_documents(run_id)
        columns = {
            name: (points["steps"], points["values"], map(as_utc, points["timestamps"]))
            for name, points in found.items()
        }
        return {name: Metric(name, *map(tuple, three)) for name, three in columns.items()}

    def children(self, run_id: int) -> list[RunSummary]:
        """List the runs, of every kind kept in the same place, that came from one of this store's runs."""
        me = (self.kind, run_id)
        stores = (self if kind == self.kind else self.sibling(kind) for kind in KINDS)
        return [child for store in stores for child in store.summaries() if me in child.parents]

    def get(self, run_id: int) -> RunRecord:
        """Look a run up.

        Raises:
            RunNotFoundError: The run does not exist; the message lists the runs of the store.
        """
        record = self.find(run_id)
        if record is None:
            raise RunNotFoundError(self._not_found(run_id))
        return record

    def find(self, run_id: int) -> RunRecord | None:
        """Look a run up; None if it does not exist."""
        document = self.read_document(run_id)
        return None if document is None else RunRecord(self, run_id, document)

    def heard_of(self, run_ids: Iterable[int]) -> set[int]:
        """Return those of some runs that live although they look dead by the clocks of two machines.

        This watches for longer than a heartbeat takes, once for all of them; where none looks like that, not at all.
        What was watched in vain is not watched again as long as it shows the same signs.
        """
        records = [record for record in map(self.find, run_ids) if record is not None and record.seems_dead]
        signs = {record.id: liveness.signs_of_life(record.document) for record in records}
        doubtful = {run_id: seen for run_id, seen in signs.items() if seen != self._silent.get(run_id)}
        if not doubtful:
            return set()
        runs = "Run" if len(doubtful) == 1 else "Runs"
        who = f"{runs} {', '.join(map(str, sorted(doubtful)))} in {self.description}"

        def look() -> dict[int, object]:
            found = {run_id: self.read_document(run_id) for run_id in doubtful}
            return {run_id: liveness.signs_of_life(run) for run_id, run in found.items() if run is not None}

        moved = liveness.watch(look, who)
        self._silent.update({run_id: seen for run_id, seen in doubtful.items() if run_id not in moved})
        return moved

    def refuse_live(self, run_id: int) -> RunRecord:
        """Return a run's record, if it is over; one that only looks dead is watched first, see ``heard_of``.

        Raises:
            InputError: The run is still running.
        """
        record = self.get(run_id)
        if record.status == "RUNNING" or self.heard_of([run_id]):
            raise still_running(record)
        return record

    def _not_found(self, run_id: int) -> str:
        ids, sort = self.ids(), singular(self.kind)
        if not ids:
            return (
                f"There is no {sort} run {run_id}: {self.description} holds no runs yet; start one, or name "
                "another store."
            )
        there = f"run {ids[0]}" if len(ids) == 1 else f"runs {listed(ids)}"
        near = min(ids, key=lambda other: abs(other - run_id))
        return f"There is no {sort} run {run_id}: {self.description} holds {there}; did you mean {near}?"


def still_running(record: RunRecord) -> InputError:
    """Return the error of a run that must be over and is not."""
    process = f"process {record.host.get('pid', '?')} on {record.host.get('hostname') or 'an unknown machine'}"
    return InputError(f"Run {record.id} in {record.store.description} is still running ({process}): stop it first.")
