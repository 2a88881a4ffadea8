"""What a store knows of a run, the interface of a store, and the rules about runs that hold in every store."""

from __future__ import annotations

import contextlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from incasem_like.disk import copy_whole
from incasem_like.errors import DamagedRecordError, IncasemError, InputError, RunNotFoundError, StoreError
from incasem_like.terminal import nearest
from incasem_like.tracking import liveness
from incasem_like.tracking.kinds import KINDS, singular
from incasem_like.tracking.liveness import find_process, honest_status
from incasem_like.tracking.metrics_log import AlreadyWrittenError
from incasem_like.tracking.model.checkpoints import (
    EARLIER_FOLDERS,
    CheckpointRecord,
    Places,
    choose_checkpoint,
    is_checkpoint_entry,
    listed,
)
from incasem_like.tracking.model.summaries import summary_of_points
from incasem_like.tracking.run_folder import ANNOTATIONS, Journal, PortableRun, Renewed, RunFolder
from incasem_like.tracking.series import Metric
from incasem_like.tracking.sessions import id_taken
from incasem_like.tracking.values import as_mapping, as_sequence, as_utc, utc_moment

if TYPE_CHECKING:
    from incasem_like.tracking.model.summaries import RunSummary
    from incasem_like.tracking.stores.gridfs import CheckpointFiles


@dataclass(frozen=True)
class Freed:
    """What a deletion freed; two of them add up.

    Attributes:
        bytes: Disk space, in bytes; of records in a database only their files count.
        folders: Deleted folders of the runs directory: checkpoints, TensorBoard logs, snapshots.
        kept: What was not deleted, and why; one sentence each.
    """

    bytes: int = 0
    folders: tuple[Path, ...] = ()
    kept: tuple[str, ...] = ()

    def __add__(self, other: Freed) -> Freed:
        return Freed(self.bytes + other.bytes, self.folders + other.folders, self.kept + other.kept)


class RunRecord:
    """A run as its store has it now; of a run that is still running, the state at its last heartbeat.

    Args:
        store: Where artifacts and metrics are fetched from when asked for.
        run_id: The run's id in that store.
        document: The run's document with plain values, as ``RunStore.read_document`` returns it.

    Attributes are those of ``RunSummary``, and:
        store: Of the run.
        document: All that its store has of it but metrics and files.
        config: The whole configuration.
        info: What the run noted: inputs, parent, checkpoints and more.
        experiment: Script, sources, dependencies and repositories (URL, commit, dirty).
        host: The machine, the process id and the boot it ran in.
        meta: The command, its options and the comment.
        captured_output: What the run printed.
        fail_trace: The traceback of a failed run.
        artifacts: Names of the files stored with the run.
    """

    def __init__(self, store: RunStore, run_id: int, document: dict[str, Any]) -> None:
        self.store, self.id, self.kind, self.document = store, run_id, store.kind, document
        self.config, self.info, self.experiment, self.host, self.meta = (
            dict(as_mapping(document.get(key))) for key in ("config", "info", "experiment", "host", "meta")
        )
        self.start_time, self.stop_time, self.heartbeat = (
            utc_moment(document.get(key)) for key in ("start_time", "stop_time", "heartbeat")
        )
        self.recorded_status = str(document.get("status") or "")
        self.name = str(as_mapping(self.meta.get("options")).get("--name") or self.experiment.get("name") or "")
        self.comment = str(self.meta.get("comment") or "")
        self.result: Any = document.get("result")
        self.captured_output = str(document.get("captured_out") or "")
        self.fail_trace = "".join(map(str, as_sequence(document.get("fail_trace"))))
        self.inputs: list[dict[str, Any]] = list(as_sequence(self.info.get("inputs")))
        self.parent: Any = self.info.get("parent")
        noted = as_mapping(document.get("omniboard"))
        self.tags = tuple(tag for tag in as_sequence(noted.get("tags")) if isinstance(tag, str))
        self.notes = str(noted.get("notes") or "")
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
        """Fetch the content of a file stored with the run.

        Raises:
            RunNotFoundError: The run has no artifact of that name.
            StoreError: The store has lost it, or does not answer.
        """
        if name not in self.artifacts:
            has = f"it has {', '.join(self.artifacts)}" if self.artifacts else "it has none"
            raise RunNotFoundError(
                f"Run {self.id} in {self.store.description} has no artifact '{name}'{nearest(name, self.artifacts)}: "
                f"{has}."
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


NOTHING: Mapping[str, Any] = MappingProxyType({})
MISSING: Final = object()  # in place of a value: the document does not have this field
DELETING, IMPORTING = "deleting", "importing"
_ATTEMPTS_TO_ANNOTATE = 1000


class RunStore(ABC):
    """Runs of one kind, each with an id that counts up from 1.

    Attributes:
        kind: Of the runs, one of ``KINDS``.
        runs_directory: Paths of checkpoints are kept relative to it, so that it can be moved.
        description: Where the store is, for messages; holds no credentials.
    """

    # Within this time a new run names the sources that it found in the store; until then no deletion takes them.
    LONGEST_START = timedelta(hours=1)

    def __init__(self, kind: str, runs_directory: Path, description: str) -> None:
        self.kind, self.runs_directory, self.description = kind, Path(runs_directory).absolute(), description
        self._silent: dict[int, object] = {}

    @abstractmethod
    def sibling(self, kind: str) -> RunStore:
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

        Raises:
            StoreError: The store cannot be read at all.
        """

    @abstractmethod
    def read_stored(
        self, run_id: int, what: Literal["artifacts", "sources", "resources"], only: str | None = None
    ) -> Iterator[tuple[str, bytes | None]]:
        """Read the files stored with a run, in the order of its document.

        Args:
            run_id: The run.
            what: Which of them.
            only: The name of one; by default all.

        Yields:
            Name and content; None for what is lost, or was never stored: Sacred's own observer stores no resources in
            MongoDB.
        """

    @abstractmethod
    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:
        """Read a run's metrics as the store holds them: steps, values, timestamps, perhaps stride and count, by name.

        Unlike ``read_metrics`` this leaves the log alone, so it has at most as many points as the store keeps.
        """

    @abstractmethod
    def metrics_log(self, run_id: int) -> Path | None:
        """Find the log of a run's metrics at full resolution; None where it is not on this machine, or not whole."""

    @abstractmethod
    def reserve(self, wanted: int | None, id_above: int, session: str | None) -> RunFolder:
        """Take an id for a run that is not in sight before ``publish``.

        Args:
            wanted: The id; None for the next one, above all that ever were.
            id_above: The next one is above this too.
            session: Token of the session that writes it.

        Returns:
            The folder on this machine in which it is written; ``run.json`` must come last.

        Raises:
            InputError: There is a run of the wanted id.
            StoreError: The store cannot be written.
        """

    @abstractmethod
    def run_folder(self, run_id: int, sessions: Sequence[str] = ()) -> RunFolder:
        """Return the folder on this machine in which a run is written, whose sessions had these tokens."""

    @abstractmethod
    def keep(self, what: Literal["sources", "resources"], name: str, path: Path) -> Any:
        """Store a file once for all runs that have it in common; return what documents call it."""

    @abstractmethod
    def patch(self, run_id: int, changes: Mapping[str, Any], expect: Mapping[str, Any] = NOTHING) -> bool:
        """Change fields of a run's document at once, if some fields are still what they are expected to be.

        Args:
            run_id: The run.
            changes: New values by field, ``status``, or by section and field, ``info.parent``; ``MISSING`` removes one.
            expect: Values as ``read_document`` returned them, None for a missing one.

        Returns:
            Whether they were as expected, so that the change was made.

        Raises:
            RunNotFoundError: The run does not exist, if the store can tell that from an unexpected value.
            StoreError: The store cannot be written.
        """

    @abstractmethod
    def hide(self, run_id: int, session: str | None) -> bool:
        """Hide a run for good and note that its id is used; return False where it is not that session's any more."""

    @abstractmethod
    def unfinished(self, what: str) -> dict[int, float]:
        """List runs that are out of sight: id, seconds since it last changed.

        Args:
            what: ``DELETING`` for those whose deletion began, ``IMPORTING`` for those that were begun or imported.
        """

    @abstractmethod
    def read_hidden(self, run_id: int) -> dict[str, Any] | None:
        """Read what is left of the document of a run whose deletion began; None where there is nothing."""

    @abstractmethod
    def remove(self, run_id: int) -> Freed:
        """Free what the store holds of a hidden run, its document last, then sources that no run names any more.

        A visible run is left alone. Sources that a run of the last hour may need are freed by a later deletion.
        """

    def leftovers(self, settled: timedelta) -> list[Any]:
        """List files of the store that belong to no run and are older than ``settled``, for ``free``."""
        return []

    def free(self, leftovers: Sequence[Any]) -> None:  # noqa: B027
        """Delete leftovers.

        Raises:
            StoreError: The store cannot be written.
        """

    @property
    def checkpoint_files(self) -> CheckpointFiles | None:
        """The store's own copies of checkpoints; None for a store that keeps none, as files do."""
        return None

    @property
    def journals(self) -> Iterable[Journal]:
        """What this machine has of runs whose store is elsewhere."""
        return ()

    def push(self, journal: RunFolder, limit: int | None = None) -> str | None:
        """Write what a journal holds into the store, and clear it; return why it was left as it is, or None.

        Args:
            journal: Of a run that no process writes.
            limit: Points of each metric in the store; None for what the run's configuration says.

        Raises:
            StoreError: The store does not answer, or the journal is damaged.
        """
        return None

    def publish(self, folder: RunFolder, run: str) -> None:  # noqa: B027
        """Bring a run that was reserved into sight, from its folder; ``run`` names it in messages.

        Raises:
            InputError: The store takes no record of that size.
            StoreError: The store cannot be written.
        """

    def pending(self, run_id: int | None = None) -> list[Journal]:
        """List the journals, of all runs or of one, that hold what the store lacks."""
        return [journal for journal in self.journals if journal.is_undelivered and run_id in (None, journal.run_id)]

    def deliver(self, journal: Journal) -> str | None:
        """Push what a journal holds; return why it was left as it is, or None.

        Raises:
            StoreError: The store does not answer, or refuses to be written.
        """
        try:
            journal.log.open()
        except AlreadyWrittenError:
            return "is still running and delivers itself"
        try:
            return self.push(journal)
        finally:
            journal.log.close()

    def hold(self, run_id: int) -> AbstractContextManager[None]:
        """Lock a run that is over against being claimed, where ``patch`` alone does not.

        Raises:
            InputError: Somebody just did.
        """
        return contextlib.nullcontext()

    def read_metrics(self, run_id: int) -> dict[str, Metric]:
        """Read all metrics of a run."""
        found = self.read_metric_documents(run_id)
        columns = {
            name: (points["steps"], points["values"], map(as_utc, points["timestamps"]))
            for name, points in found.items()
        }
        return {name: Metric(name, *map(tuple, three)) for name, three in columns.items()}

    def is_free(self, run_id: int) -> bool:
        """Return whether a run can have this id: there is none of it, and nothing is left of a deleted one."""
        return not any(run_id in ids for ids in (self.ids(), self.unfinished(DELETING), self.unfinished(IMPORTING)))

    def put(self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], Renewed]) -> int:
        """Write an exported run into the store; it comes into sight when all of it is there.

        Args:
            portable: The run.
            wanted: The id that it is to have; None for the next one, above all that ever were.
            id_above: The next one is above this too.
            renew: Returns, for its id, what it notes of ids of runs and paths, as these are here.

        Returns:
            Its id.

        Raises:
            InputError: There is a run of the wanted id.
            StoreError: The store cannot be written.
        """
        document, session = portable.document, portable.document.get("session")
        folder = self.reserve(wanted, id_above, session)
        try:
            with errors_of_writing(folder.folder):
                info, result = renew(folder.run_id)
                base = Path(str(as_mapping(document.get("experiment")).get("base_dir") or ""))
                kept: dict[str, list[Any]] = {"sources": [], "resources": []}
                for what in ("sources", "resources"):
                    for name, path, noted in portable.stored(what):
                        key = noted if path is None else self.keep(what, str(base / name), path)
                        kept[what].append([name, key])
                folder.write("config.json", portable.config)
                folder.write("info.json", info)
                folder.write("metrics.json", portable.metrics)
                if portable.annotations:
                    folder.write(ANNOTATIONS, portable.annotations)
                folder.write_output(portable.output)
                if portable.log_path.is_file():
                    copy_whole(portable.log_path, folder.log_path)
                for name, path in portable.artifacts():
                    copy_whole(path, folder.artifact(name))
                experiment = {**as_mapping(document.get("experiment")), "sources": kept["sources"]}
                changed = {"experiment": experiment, "resources": kept["resources"], "result": result}
                folder.write("run.json", {**document, **changed})
            self.publish(folder, f"{singular(portable.kind).capitalize()} run {portable.id} of {portable.origin}")
        except BaseException:
            self.discard(folder, session)
            raise
        return folder.run_id

    def discard(self, folder: RunFolder, session: str | None) -> None:
        """Remove a run that was reserved, and could not be written or published."""
        with contextlib.suppress(IncasemError):
            self.hide(folder.run_id, session)
            self.remove(folder.run_id)
        shutil.rmtree(folder.folder, ignore_errors=True)

    def annotate(
        self, run_id: int, *, add_tags: Sequence[str] = (), remove_tags: Sequence[str] = (), notes: str | None = None
    ) -> None:
        """Change a run's tags and notes, whether it is over or still running.

        Args:
            run_id: The run.
            add_tags: Tags to add; one that it has already stays where it is.
            remove_tags: Tags to take away; one that it lacks is passed over.
            notes: What replaces its notes; None leaves them.

        Raises:
            RunNotFoundError: The run does not exist.
            InputError: A tag is empty.
            StoreError: The store cannot be written.
        """
        refuse_empty_tags(add_tags)
        for _ in range(_ATTEMPTS_TO_ANNOTATE):
            noted = as_mapping((self.read_document(run_id) or {}).get("omniboard"))
            tags = dict.fromkeys([*as_sequence(noted.get("tags")), *add_tags])
            changes: dict[str, Any] = {"omniboard.tags": [tag for tag in tags if tag not in remove_tags]}
            if notes is not None:
                changes["omniboard.notes"] = notes
            if self.patch(run_id, changes, {"omniboard.tags": noted.get("tags")}):
                return
            self.get(run_id)
        raise StoreError(f"The tags of run {run_id} in {self.description} change all the time: try again.")

    def set_killed(self, run_id: int) -> bool:
        """Record that a run was killed which could not do so itself, after uploading what is pending of it.

        Args:
            run_id: The run; one of another machine that only looks dead is watched first.

        Returns:
            Whether it was recorded now; False if the run is over.

        Raises:
            RunNotFoundError: The run does not exist.
            InputError: The run is still running.
            StoreError: The store cannot be written.
        """
        for journal in self.pending(run_id):
            self.deliver(journal)
        record = self.refuse_live(run_id)
        if record.recorded_status != "RUNNING":
            return False
        changes = {"status": "KILLED", "stop_time": record.heartbeat or record.start_time}
        with self.hold(run_id):
            if self.patch(run_id, changes, {"status": "RUNNING", "heartbeat": record.document.get("heartbeat")}):
                return True
        self.refuse_live(run_id)  # it had a heartbeat, or ended, in the meantime
        return False

    def note(self, run_id: int, facts: Mapping[str, Any]) -> None:
        """Set entries of ``info`` of a run that is over, such as a checkpoint that came later.

        Args:
            run_id: The run.
            facts: Plain values by key; each replaces what was noted under that key.

        Raises:
            RunNotFoundError: The run does not exist.
            InputError: The run is still running, and writes its info itself.
            StoreError: The store cannot be written.
        """
        session = self.refuse_live(run_id).document.get("session")
        with self.hold(run_id):
            if not self.patch(run_id, {f"info.{key}": value for key, value in facts.items()}, {"session": session}):
                self._refuse_continued(run_id)

    def begin_deletion(self, run_id: int) -> None:
        """Hide a run, as the first step of deleting it; its id stays used.

        Raises:
            RunNotFoundError: The run does not exist.
            InputError: The run is still running.
            StoreError: The store cannot be written.
        """
        session = None
        with contextlib.suppress(DamagedRecordError):  # it can be deleted all the same
            session = self.refuse_live(run_id).document.get("session")
        with self.hold(run_id):
            if not self.hide(run_id, session):
                self._refuse_continued(run_id)

    def _refuse_continued(self, run_id: int) -> NoReturn:
        """Raise the error of a run that was continued between two looks at it."""
        self.refuse_live(run_id)
        raise InputError(f"Run {run_id} in {self.description} was just continued: look at it again.")

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

    def check_unused(self, run_id: int, resume: str | None = None) -> None:
        """Check that a wanted id is free.

        Args:
            run_id: The id.
            resume: Flag of the script that resumes such a run, if there is one.

        Raises:
            InputError: There is one.
        """
        if run_id in self.ids():
            raise id_taken(run_id, self.description, resume)

    def heard_of(self, run_ids: Iterable[int]) -> set[int]:
        """Return those of some runs that live although they look dead by the clocks of two machines.

        This watches for longer than a heartbeat takes, once for all of them; where none looks like that, not at all.
        What was watched in vain is not watched again as long as it shows the same signs.
        """
        doubtful = {
            run_id: signs
            for run_id, signs in self._signs(run_ids, lambda record: record.seems_dead).items()
            if signs != self._silent.get(run_id)
        }
        if not doubtful:
            return set()
        runs = "Run" if len(doubtful) == 1 else "Runs"
        who = f"{runs} {', '.join(map(str, sorted(doubtful)))} in {self.description}"
        moved = liveness.watch(lambda: self._signs(doubtful, lambda record: True), who)
        self._silent.update({run_id: signs for run_id, signs in doubtful.items() if run_id not in moved})
        return moved

    def _signs(self, run_ids: Iterable[int], wanted: Callable[[RunRecord], bool]) -> dict[int, object]:
        found = {run_id: self.find(run_id) for run_id in run_ids}
        return {
            run_id: liveness.signs_of_life(record.document)
            for run_id, record in found.items()
            if record is not None and wanted(record)
        }

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


def refuse_empty_tags(tags: Sequence[str]) -> None:
    """Check that no tag is empty.

    Raises:
        InputError: One has none.
    """
    if not all(tag.strip() for tag in tags):
        raise InputError("A tag cannot be empty: give it a text, such as +published or -published.")


@contextlib.contextmanager
def errors_of_writing(folder: Path) -> Iterator[None]:
    """Raise one sentence where a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be changed ({error.strerror or error}): check its rights and the space on its disk."
        ) from None
