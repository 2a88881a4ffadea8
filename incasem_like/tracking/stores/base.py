"""What a store knows of a run, the interface of a store, and making sure that a run is over."""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

from incasem_like.errors import DamagedRecordError, InputError, RunNotFoundError, StoreError
from incasem_like.terminal import nearest
from incasem_like.tracking.background import SECONDS_BETWEEN_HEARTBEATS
from incasem_like.tracking.kinds import KINDS, singular
from incasem_like.tracking.liveness import find_process, honest_status
from incasem_like.tracking.model.checkpoints import (
    EARLIER_FOLDERS,
    CheckpointRecord,
    Places,
    choose_checkpoint,
    is_checkpoint_entry,
    listed,
)
from incasem_like.tracking.series import Metric
from incasem_like.tracking.sessions import id_taken
from incasem_like.tracking.values import as_mapping, as_sequence, utc_moment

if TYPE_CHECKING:
    from incasem_like.tracking.model.summaries import RunSummary
    from incasem_like.tracking.run_folder import PortableRun, RenewedIds
    from incasem_like.tracking.stores.gridfs import CheckpointFiles


@dataclass(frozen=True)
class Freed:
    """What a deletion freed; two of them add up.

    Attributes:
        runs: Records of runs.
        metrics: Series of metrics.
        artifacts: Files stored with the run.
        sources: Stored source files that no other run needs.
        stored_checkpoints: Checkpoints in the database.
        checkpoints: Checkpoints on this machine.
        bytes: Space of all that, in bytes; of records in a database only their files count.
        folders: Folders of the runs directory that are gone: checkpoints, TensorBoard logs, snapshots.
        kept: What was left alone, and why; one sentence each.
    """

    runs: int = 0
    metrics: int = 0
    artifacts: int = 0
    sources: int = 0
    stored_checkpoints: int = 0
    checkpoints: int = 0
    bytes: int = 0
    folders: tuple[Path, ...] = ()
    kept: tuple[str, ...] = ()

    def __add__(self, other: Freed) -> Freed:
        return Freed(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


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


log = logging.getLogger("incasem_like.tracking")
SECONDS_TO_WATCH = 2.5 * SECONDS_BETWEEN_HEARTBEATS  # a beat may be late on a busy machine, and slow to arrive
_LOOKS = 10
Key = TypeVar("Key")


def signs_of_life(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of a run's document that change with each heartbeat, or when it ends or is resumed."""
    return tuple(str(document.get(key)) for key in ("session", "status", "heartbeat"))


def watch(look: Callable[[], Mapping[Key, object]], who: str) -> set[Key]:
    """Look at runs for a little longer than a heartbeat takes, and give those that changed meanwhile.

    Args:
        look: Gives the signs of life of each run now; one that is gone is left out.
        who: What is watched, for a person: ``Training run 3 in …``.
    """
    log.warning(
        "%s: nothing was heard for minutes, but by another machine's clock, which may be wrong; watching for %g s.",
        who,
        SECONDS_TO_WATCH,
    )
    before, moved = look(), set[Key]()
    end = time.monotonic() + SECONDS_TO_WATCH
    while before.keys() - moved and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SECONDS_TO_WATCH / _LOOKS))
        now = look()
        moved |= {key for key, signs in before.items() if now.get(key) != signs}
    return moved


class Watch:
    """Makes sure that runs of a store are dead that say RUNNING and look dead from here.

    What was watched in vain need not be watched again as long as it shows the same signs.

    Args:
        store: Of the runs.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._silent: dict[int, object] = {}

    def heard_of(self, run_ids: Iterable[int]) -> set[int]:
        """Return those of some runs that are alive; all are watched at once, and only those that need it."""
        doubtful = {run_id: signs for run_id, signs in self._look(run_ids).items() if signs != self._silent.get(run_id)}
        if not doubtful:
            return set()
        runs = "Run" if len(doubtful) == 1 else "Runs"
        who = f"{runs} {', '.join(map(str, sorted(doubtful)))} in {self._store.description}"
        moved = watch(lambda: self._look(doubtful, only_doubtful=False), who)
        self._silent.update({run_id: signs for run_id, signs in doubtful.items() if run_id not in moved})
        return moved

    def _look(self, run_ids: Iterable[int], *, only_doubtful: bool = True) -> dict[int, object]:
        found = {run_id: self._store.find(run_id) for run_id in run_ids}
        return {
            run_id: signs_of_life(record.document)
            for run_id, record in found.items()
            if record is not None and (record.seems_dead or not only_doubtful)
        }


NOTHING: Mapping[str, Any] = MappingProxyType({})
_ATTEMPTS_TO_ANNOTATE = 1000


class RunExchange(ABC):
    """The part of a store by which runs leave and come in."""

    @abstractmethod
    def read_stored(self, run_id: int, what: Literal["sources", "resources"]) -> Iterator[tuple[str, bytes | None]]:
        """Read the sources or resources of a run, in the order of its document.

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
    def is_free(self, run_id: int) -> bool:
        """Return whether a run can have this id: there is none of it, and nothing is left of a deleted one."""

    @abstractmethod
    def put(self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]) -> int:
        """Write an exported run into the store; it becomes visible when all of it is there.

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

    @abstractmethod
    def half_received(self) -> dict[int, float]:
        """List the runs that were being started or taken in and are not in sight: id, seconds since it last changed."""

    @abstractmethod
    def free_half_received(self, run_id: int) -> None:
        """Free what there is of such a run, which nobody may be writing any more.

        Raises:
            StoreError: The store cannot be written.
        """


class RunStore(RunExchange):
    """Runs of one kind, each with an id that counts up from 1.

    Attributes:
        kind: trainings, predictions, segmentations or evaluations.
        runs_directory: Paths of checkpoints are kept relative to it, so that it can be moved.
        description: Where the store is, for messages; holds no credentials.
    """

    def __init__(self, kind: str, runs_directory: Path, description: str) -> None:
        self.kind, self.runs_directory, self.description = kind, Path(runs_directory).absolute(), description
        self._watch = Watch(self)

    @abstractmethod
    def ids(self) -> list[int]:
        """List the ids of all runs, sorted."""

    @abstractmethod
    def read_document(self, run_id: int) -> dict[str, Any] | None:
        """Read a run's document with plain values, artifacts by name; None where there is no such run."""

    @abstractmethod
    def read_metrics(self, run_id: int) -> dict[str, Metric]:
        """Read all metrics of a run."""

    @abstractmethod
    def read_artifact(self, run_id: int, name: str) -> bytes:
        """Read a file stored with a run."""

    @property
    def checkpoint_files(self) -> CheckpointFiles | None:
        """The store's own copies of checkpoints; None for a store that keeps none, as files do."""
        return None

    @abstractmethod
    def metrics_log(self, run_id: int) -> Path | None:
        """Find the log of a run's metrics at full resolution; None where it is not on this machine, or not whole."""

    @abstractmethod
    def sibling(self, kind: str) -> RunStore:
        """Open the runs of another kind that are kept in the same place."""

    @abstractmethod
    def summaries(
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        """Summarize all runs, by id, in one pass; one that cannot be read is there as DAMAGED.

        Args:
            config_keys: Dotted keys of the configuration, or of sections of it, that the summaries hold; ``*`` for all.
            inputs: Whether the summaries hold the inputs, which are bulky.
            metrics: Metrics that are wanted of runs of Sacred's own observers too, which keep no summary of them: from
                MongoDB these are read whole, and only when named here. Other runs have all of theirs anyway.

        Raises:
            StoreError: The store cannot be read at all.
        """

    @abstractmethod
    def patch(self, run_id: int, changes: Mapping[str, Any], expect: Mapping[str, Any] = NOTHING) -> bool:
        """Change fields of a run's document at once, if some fields are still what they are expected to be.

        Args:
            run_id: The run.
            changes: New values by field, ``status``, or by section and field, ``info.parent``; None removes a field.
            expect: Values as ``read_document`` returned them, None for a missing one.

        Returns:
            Whether they were as expected, so that the change was made.

        Raises:
            RunNotFoundError: There is no such run, where the store can tell that from an unexpected value.
            StoreError: The store cannot be written.
        """

    def hold(self, run_id: int) -> AbstractContextManager[None]:
        """Lock a run that is over against being claimed, where ``patch`` alone does not.

        Raises:
            InputError: Somebody just did.
        """
        return contextlib.nullcontext()

    @abstractmethod
    def tombstone(self, run_id: int, session: str | None) -> bool:
        """Hide a run for good and note that its id is used; return False where it is not that session's any more."""

    def annotate(
        self, run_id: int, *, add_tags: Sequence[str] = (), remove_tags: Sequence[str] = (), notes: str | None = None
    ) -> None:
        """Change a run's tags and notes, whether it is over or goes on.

        Args:
            run_id: The run.
            add_tags: Tags to add; one that it has already stays where it is.
            remove_tags: Tags to take away; one that it lacks is passed over.
            notes: What replaces its notes; None leaves them.

        Raises:
            RunNotFoundError: There is no such run.
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

    def set_state(self, run_id: int, status: str, stop_time: datetime | None) -> None:
        """Record how a run ended that could not do so itself.

        Args:
            run_id: A run that says RUNNING and is not alive; one that only looks dead is watched first.
            status: KILLED, as a rule.
            stop_time: When it was last heard of; without a time zone, UTC.

        Raises:
            RunNotFoundError: There is no such run.
            InputError: The run goes on, or says by itself how it ended.
            StoreError: The store cannot be written.
        """
        record = self._without_end(run_id)
        expect = {"status": "RUNNING", "heartbeat": record.document.get("heartbeat")}
        with self.hold(run_id):
            if not self.patch(run_id, {"status": status, "stop_time": stop_time}, expect):
                self._without_end(run_id)  # it was heard of, or came to its end, in the meantime

    def note(self, run_id: int, facts: Mapping[str, Any]) -> None:
        """Set entries of ``info`` of a run that is over, such as a checkpoint that came later.

        Args:
            run_id: The run.
            facts: Plain values by key; each replaces what was noted under that key.

        Raises:
            RunNotFoundError: There is no such run.
            InputError: The run goes on, and writes its info itself.
            StoreError: The store cannot be written.
        """
        session = self.refuse_live(run_id).document.get("session")
        with self.hold(run_id):
            if not self.patch(run_id, {f"info.{key}": value for key, value in facts.items()}, {"session": session}):
                self._refuse_continued(run_id)

    def begin_deletion(self, run_id: int) -> None:
        """Hide a run, as the first step of deleting it; its id stays used.

        Raises:
            RunNotFoundError: There is no such run.
            InputError: The run goes on.
            StoreError: The store cannot be written.
        """
        session = None
        with contextlib.suppress(DamagedRecordError):  # which is no reason to keep it
            session = self.refuse_live(run_id).document.get("session")
        with self.hold(run_id):
            if not self.tombstone(run_id, session):
                self._refuse_continued(run_id)

    def _refuse_continued(self, run_id: int) -> NoReturn:
        """Raise the error of a run that was continued between two looks at it."""
        self.refuse_live(run_id)
        raise InputError(f"Run {run_id} in {self.description} was just continued: look at it again.")

    @abstractmethod
    def half_deleted(self) -> list[int]:
        """List the ids of runs whose deletion began and was not finished."""

    @abstractmethod
    def read_half_deleted(self, run_id: int) -> RunRecord | None:
        """Return what is left of the record of a run whose deletion began; None where it cannot be read any more."""

    @abstractmethod
    def free_record(self, run_id: int) -> Freed:
        """Free what the store holds of a run whose deletion began, its document last."""

    def children(self, run_id: int) -> list[RunSummary]:
        """List the runs, of every kind kept in the same place, that came from one of this store's runs."""
        me = (self.kind, run_id)
        stores = (self if kind == self.kind else self.sibling(kind) for kind in KINDS)
        return [child for store in stores for child in store.summaries() if me in child.parents]

    def get(self, run_id: int) -> RunRecord:
        """Look a run up.

        Raises:
            RunNotFoundError: There is no such run; the message says which there are and where was looked.
        """
        record = self.find(run_id)
        if record is None:
            raise RunNotFoundError(self._not_found(run_id))
        return record

    def find(self, run_id: int) -> RunRecord | None:
        """Look a run up; None where there is no such run."""
        document = self.read_document(run_id)
        return None if document is None else RunRecord(self, run_id, document)

    def check_unused(self, run_id: int, resume: str | None = None) -> None:
        """Check that there is no run of a wanted id.

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
        """
        return self._watch.heard_of(run_ids)

    def refuse_live(self, run_id: int) -> RunRecord:
        """Return a run's record, if it is over; one that only looks dead is watched first, see ``heard_of``.

        Raises:
            InputError: The run goes on.
        """
        record = self.get(run_id)
        if record.status == "RUNNING" or self.heard_of([run_id]):
            host = record.host.get("hostname") or "an unknown machine"
            raise InputError(
                f"Run {run_id} in {self.description} still goes on (process {record.host.get('pid', '?')} on {host}): "
                "stop it first."
            )
        return record

    def _without_end(self, run_id: int) -> RunRecord:
        """Return the record of a run that died without saying so; raise InputError for any other."""
        record = self.refuse_live(run_id)
        if record.recorded_status != "RUNNING":
            raise InputError(
                f"Run {run_id} in {self.description} says by itself how it ended ({record.recorded_status}): leave it."
            )
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


def refuse_empty_tags(tags: Sequence[str]) -> None:
    """Check that no tag is empty.

    Raises:
        InputError: One has none.
    """
    if not all(tag.strip() for tag in tags):
        raise InputError("A tag cannot be empty: give it a text, such as +published or -published.")
