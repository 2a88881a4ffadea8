"""The interface of a run store, and the choice between files and MongoDB."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.terminal import nearest
from incasem_like.tracking.address import KINDS, FolderAddress, parse_address, singular
from incasem_like.tracking.checkpoints import listed
from incasem_like.tracking.exchange import RunExchange
from incasem_like.tracking.records import Metric, RunRecord
from incasem_like.tracking.watching import Watch

if TYPE_CHECKING:
    from sacred.observers import RunObserver

    from incasem_like.tracking.deletion.freed import Freed
    from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles
    from incasem_like.tracking.summaries import RunSummary


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
    def observer(self, *, id_above: int = 0) -> RunObserver:
        """Make the Sacred observer that writes one new run into this store.

        Args:
            id_above: The run's id will be above this, and above all ids that the store ever gave.
        """

    @abstractmethod
    def reopen(self, run_id: int, *, after_step: int | Callable[[], int]) -> RunObserver:
        """Make the Sacred observer that goes on with a run of this store; its start takes the run from everybody else.

        Args:
            run_id: A run that is over; that it is is looked at again when the observer starts.
            after_step: What was logged after this iteration is withdrawn; a function is asked when the run is taken.
        """

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

    @abstractmethod
    def set_state(self, run_id: int, status: str, stop_time: datetime | None) -> None:
        """Set down how a run ended that could not do so itself.

        Args:
            run_id: A run that says RUNNING and is not alive; one that only looks dead is watched first.
            status: KILLED, as a rule.
            stop_time: When it was last heard of; without a time zone, UTC.

        Raises:
            RunNotFoundError: There is no such run.
            InputError: The run goes on, or says by itself how it ended.
            StoreError: The store cannot be written.
        """

    @abstractmethod
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

    @abstractmethod
    def begin_deletion(self, run_id: int) -> None:
        """Take a run from sight, as the first step of deleting it; its id stays used.

        Raises:
            RunNotFoundError: There is no such run.
            InputError: The run goes on.
            StoreError: The store cannot be written.
        """

    @abstractmethod
    def half_deleted(self) -> list[int]:
        """List the ids of runs whose deletion began and was not finished."""

    @abstractmethod
    def read_half_deleted(self, run_id: int) -> RunRecord | None:
        """Give what is left of the record of a run whose deletion began; None where it cannot be read any more."""

    @abstractmethod
    def free_record(self, run_id: int) -> Freed:
        """Free what the store holds of a run whose deletion began, its document last."""

    def children(self, run_id: int) -> list[RunSummary]:
        """List the runs, of every kind kept in the same place, that came from one of this store's runs."""
        me = (self.kind, run_id)
        stores = (self if kind == self.kind else self.sibling(kind) for kind in KINDS)
        return [child for store in stores for child in store.summaries() if me in child.parents]

    def delete(self, run_id: int, *, force: bool = False) -> Freed:
        """Delete a run with its metrics, artifacts, sources that no other run needs, and checkpoints.

        Checkpoints on this machine go with their folder, TensorBoard logs and snapshots, but only where their hashes
        prove that they are this run's, and no run of another store shares them.

        Args:
            run_id: The run.
            force: Delete it even if other runs came from it.

        Raises:
            RunNotFoundError: There is no such run.
            InputError: The run goes on, or other runs came from it.
            StoreError: The store cannot be written.
        """
        from incasem_like.tracking.deletion.deleting import delete_run

        return delete_run(self, run_id, force=force)

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
        from incasem_like.tracking.recording.sessions import id_taken

        if run_id in self.ids():
            raise id_taken(run_id, self.description, resume)

    def heard_of(self, run_ids: Iterable[int]) -> set[int]:
        """Give those of some runs that live although they look dead by the clocks of two machines.

        This watches for longer than a heartbeat takes, once for all of them; where none looks like that, not at all.
        """
        return self._watch.heard_of(run_ids)

    def refuse_live(self, run_id: int) -> RunRecord:
        """Give a run's record, if it is over; one that only looks dead is watched first, see ``heard_of``.

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
        """Give the record of a run that died without saying so; raise InputError for any other."""
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


def open_store(url: str | Path | None, kind: str, runs_directory: Path) -> RunStore:
    """Open the store of one kind of run.

    Args:
        url: See ``parse_address``; None keeps runs as files in ``<runs_directory>/tracking/incasem_<kind>/<id>/``.
        kind: trainings, predictions, segmentations or evaluations.
        runs_directory: The folder of training runs.

    Raises:
        InputError: The address cannot be understood, or the server refuses the credentials.
        StoreError: No server answers there.
    """
    if kind not in KINDS:
        raise InputError(f"There are no runs of kind '{kind}'{nearest(kind, KINDS)}: choose one of {', '.join(KINDS)}.")
    address = parse_address(url, Path(runs_directory))
    if isinstance(address, FolderAddress):
        from incasem_like.tracking.files.store import FileStore

        return FileStore(address.folder / f"incasem_{kind}", kind, runs_directory)
    from incasem_like.tracking.mongo.connecting import connect

    return connect(address, kind, runs_directory)


def refuse_empty_tags(tags: Sequence[str]) -> None:
    """Make sure that each tag has a text.

    Raises:
        InputError: One has none.
    """
    if not all(tag.strip() for tag in tags):
        raise InputError("A tag cannot be empty: give it a text, such as +published or -published.")
