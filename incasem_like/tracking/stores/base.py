"""What a store knows of a run, the interface of a store, and the rules about runs that hold in every store."""

from __future__ import annotations

import contextlib
import shutil
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

from incasem_like.disk import copy_whole
from incasem_like.errors import DamagedRecordError, IncasemError, InputError, StoreError
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.run_folder import SHARED, PortableRun, Renewed, RunFolder, Shared
from incasem_like.tracking.sessions import id_taken
from incasem_like.tracking.stores.records import StoredRuns
from incasem_like.tracking.values import as_mapping, as_sequence

NOTHING: Mapping[str, Any] = MappingProxyType({})
MISSING: Final = object()  # in place of a value: the document does not have this field
DELETING, IMPORTING = "deleting", "importing"
_ATTEMPTS_TO_ANNOTATE = 1000


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


class RunStore(StoredRuns):
    """Runs of one kind, each with an id that counts up from 1.

    Methods raise ``RunNotFoundError`` for a run that does not exist, and ``StoreError`` if the store does not answer or
    cannot be written.
    """

    # Within this time a new run names the sources that it found in the store; until then no deletion takes them.
    LONGEST_START = timedelta(hours=1)

    @abstractmethod
    def reserve(self, wanted: int | None, id_above: int, session: str | None) -> RunFolder:
        """Take an id for a run that is not in sight before ``publish``.

        Args:
            wanted: The id, for which there must be no run; None for the next one, above all that ever were.
            id_above: The next one is above this too.
            session: Token of the session that writes it.

        Returns:
            The folder on this machine in which it is written; ``run.json`` must come last.
        """

    @abstractmethod
    def run_folder(self, run_id: int, sessions: Sequence[str] = ()) -> RunFolder:
        """Return the folder on this machine in which a run is written, whose sessions had these tokens."""

    @abstractmethod
    def keep(self, what: Shared, name: str, path: Path) -> Any:
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
        """

    @abstractmethod
    def hide(self, run_id: int, session: str | None) -> bool:
        """Hide a run for good and note that its id is used; return False where it is not that session's any more."""

    @abstractmethod
    def unfinished(self, what: str) -> dict[int, float]:
        """List runs that are out of sight, with the seconds since each last changed.

        ``what`` is ``DELETING`` for those whose deletion began, ``IMPORTING`` for those that were begun or imported.
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

    def free(self, leftovers: Sequence[Any]) -> None:
        """Delete leftovers."""

    def publish(self, folder: RunFolder, run: str) -> None:
        """Bring a run that was reserved into sight, from its folder; ``run`` names it in messages."""

    def hold(self, run_id: int) -> AbstractContextManager[None]:
        """Lock a run that is over against being claimed, where ``patch`` alone does not."""
        return contextlib.nullcontext()

    def is_free(self, run_id: int) -> bool:
        """Return whether a run can have this id: there is none of it, and nothing is left of a deleted one."""
        return not any(run_id in ids for ids in (self.ids(), self.unfinished(DELETING), self.unfinished(IMPORTING)))

    def put(self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], Renewed]) -> int:
        """Write an exported run into the store; it comes into sight when all of it is there. Return its id.

        ``wanted`` and ``id_above`` are as for ``reserve``; ``renew`` returns, for its id, what the run notes of ids of
        runs and paths, as these are here.
        """
        document, session = portable.document, portable.document.get("session")
        folder = self.reserve(wanted, id_above, session)
        try:
            with errors_of_writing(folder.folder):
                info, result = renew(folder.run_id)
                base = Path(str(as_mapping(document.get("experiment")).get("base_dir") or ""))
                kept = {
                    what: [
                        [name, noted if path is None else self.keep(what, str(base / name), path)]
                        for name, path, noted in portable.stored(what)
                    ]
                    for what in SHARED
                }
                folder.write("metrics.json", portable.metrics)
                if portable.log_path.is_file():
                    copy_whole(portable.log_path, folder.log_path)
                for name, path in portable.artifacts():
                    copy_whole(path, folder.artifact(name))
                experiment = {**as_mapping(document.get("experiment")), "sources": kept["sources"]}
                changed = {"experiment": experiment, "resources": kept["resources"], "result": result, "info": info}
                folder.write_document({**(portable.read_document() or {}), "config": portable.config, **changed})
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

        A tag to add that it has already stays where it is; one to remove that it lacks is passed over. None leaves its
        notes as they are.
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

        One of another machine that only looks dead is watched first.

        Returns:
            Whether it was recorded now; False if the run is over.

        Raises:
            InputError: The run is still running.
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

        Raises:
            InputError: The run is still running, and writes its info itself.
        """
        session = self.refuse_live(run_id).document.get("session")
        with self.hold(run_id):
            if not self.patch(run_id, {f"info.{key}": value for key, value in facts.items()}, {"session": session}):
                self._refuse_continued(run_id)

    def begin_deletion(self, run_id: int) -> None:
        """Hide a run, as the first step of deleting it; its id stays used.

        Raises:
            InputError: The run is still running.
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

    def check_unused(self, run_id: int, resume: str | None = None) -> None:
        """Check that a wanted id is free; ``InputError`` names the flag ``resume`` that resumes the run that has it."""
        if run_id in self.ids():
            raise id_taken(run_id, self.description, resume)


def refuse_empty_tags(tags: Sequence[str]) -> None:
    """Check that no tag is empty."""
    if not all(tag.strip() for tag in tags):
        raise InputError("A tag cannot be empty: give it a text, such as +published or -published.")


@contextlib.contextmanager
def errors_of_writing(folder: Path) -> Iterator[None]:
    """Raise one sentence where a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or folder} cannot be changed ({error.strerror or error}): check its rights and the space "
            "on its disk."
        ) from None
