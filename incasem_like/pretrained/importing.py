"""Imports: choose the id of a run, recognize earlier imports, and add a checkpoint to a run without one."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from incasem_like.errors import CheckpointError, ConfigError, InputError, StoreError
from incasem_like.pretrained.checkpoint_run import ImportedCheckpoint, check_fits
from incasem_like.pretrained.foreign import ORIGIN, ForeignRun
from incasem_like.pretrained.placing import check_place, place
from incasem_like.pretrained.storing import write_run
from incasem_like.tracking.mirror.checkpoints import upload_missing
from incasem_like.tracking.moving.deletion import delete_run
from incasem_like.tracking.moving.transfer import export_run, import_run
from incasem_like.tracking.run_folder import PortableRun

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord, RunStore

log = logging.getLogger("incasem_like.pretrained")


@dataclass(frozen=True)
class Imported:
    """The result of importing a run.

    Attributes:
        run_id: Its id in the store.
        run: The imported run.
        how: ``imported`` now; its ``checkpoint`` added to a run imported earlier; ``there`` already.
    """

    run_id: int
    run: ForeignRun
    how: Literal["imported", "checkpoint", "there"]


class Importer:
    """Imports foreign trainings into a store.

    Args:
        store: Store of trainings.
        run_id: The id for the next run; by default its original one.
        remap: Whether to give a run another id if its own is taken.
        replace: Whether a run may replace one of the same id that was imported earlier.
        upload: Whether to copy checkpoints into the store, if it stores any.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        run_id: int | None = None,
        remap: bool = False,
        replace: bool = False,
        upload: bool = True,
    ) -> None:
        self.store, self.run_id, self.remap, self.replace, self.upload = store, run_id, remap, replace, upload

    def add(self, run: ForeignRun, checkpoint: ImportedCheckpoint | None = None) -> Imported:
        """Import a training, with its checkpoint if it has one; a second import does nothing.

        Raises:
            InputError: Its id, or the folder of its checkpoints, is taken by another run.
            CheckpointError: The checkpoint does not belong to the run's network.
            DataError: Its source is damaged.
            StoreError: The store cannot be written.
        """
        there = self._find_same(run, checkpoint)
        if there is not None:
            added = checkpoint is not None and self._complete(there, checkpoint)
            return Imported(there.id, run, "checkpoint" if added else "there")
        wanted = self.run_id or run.id
        if wanted is None or wanted not in self.store.ids():
            return Imported(self._write(run, checkpoint, wanted), run, "imported")
        taken = self.store.get(wanted)
        if checkpoint is not None and _is_checkpoint_alone(run.identity) and _lacks_a_checkpoint(taken, run):
            self._complete(taken, checkpoint)
            return Imported(wanted, run, "checkpoint")
        if _is_record_of(run, taken) or (self.replace and ORIGIN in taken.info):
            return Imported(self._write_in_place_of(taken, run, checkpoint), run, "imported")
        if self.remap:
            return Imported(self._write(run, checkpoint, None), run, "imported")
        raise self._taken(taken)

    def _write(self, run: ForeignRun, checkpoint: ImportedCheckpoint | None, wanted: int | None) -> int:
        if checkpoint is not None:
            check_fits(checkpoint.path, run.document["config"])
            if wanted is not None:
                check_place(checkpoint, self.store, wanted)
        run_id = write_run(run, self.store, wanted, lambda found: self._facts(found, (), checkpoint))
        if checkpoint is not None:
            self._upload(run_id)
        return run_id

    def _facts(self, run_id: int, entries: Sequence[Any], checkpoint: ImportedCheckpoint | None) -> dict[str, Any]:
        """Copy a checkpoint to its run, and return what to add to the run's ``info``, given its present ``entries``."""
        facts: dict[str, Any] = {"runs_directory": str(self.store.runs_directory)}
        if checkpoint is not None:
            entry = place(checkpoint, self.store, run_id)
            facts |= {"checkpoints": [*entries, entry], "checkpoint_file": checkpoint.notes}
        return facts

    def _write_in_place_of(self, taken: RunRecord, run: ForeignRun, checkpoint: ImportedCheckpoint | None) -> int:
        """Replace an earlier import by a run, keeping its checkpoint, tags and notes."""
        tags, notes = tuple(dict.fromkeys([*run.tags, *taken.tags])), taken.notes or run.notes
        with tempfile.TemporaryDirectory(prefix=".import-", dir=self.store.runs_directory) as temporary:
            before = export_run(taken, Path(temporary) / "before")
            if checkpoint is None:
                checkpoint = _held(taken, PortableRun(before))
            if checkpoint is not None and not usable(run, checkpoint):
                checkpoint = None
            delete_run(self.store, taken.id, force=True)
            try:
                return self._write(replace(run, tags=tags, notes=notes), checkpoint, taken.id)
            except BaseException:
                import_run(before, self.store)
                raise

    def _taken(self, taken: RunRecord) -> InputError:
        named = f" ({taken.name})" if taken.name else ""
        earlier = ", or --replace to put it in the place of that earlier import" if ORIGIN in taken.info else ""
        return InputError(
            f"The id {taken.id} is taken by another run{named} in {self.store.description}: add --id ID to choose "
            f"another, or --remap to take the next free one{earlier}."
        )

    def _find_same(self, run: ForeignRun, checkpoint: ImportedCheckpoint | None) -> RunRecord | None:
        """Return the run that an earlier import made; for a checkpoint alone, any run that has it."""
        sha256 = checkpoint.sha256 if checkpoint is not None and _is_checkpoint_alone(run.identity) else None
        for summary in self.store.summaries():
            if sha256 is not None and any(one.sha256 == sha256 for one in summary.checkpoints):
                return self.store.get(summary.id)
            if summary.name == run.name or summary.id == run.id:
                record = self.store.get(summary.id)
                if (record.info.get(ORIGIN) or {}).get("identity") == run.identity:
                    return record
        return None

    def _complete(self, record: RunRecord, checkpoint: ImportedCheckpoint) -> bool:
        """Add a checkpoint to a run that lacks it; return whether it lacked it."""
        if any(one.sha256 == checkpoint.sha256 for one in record.checkpoints):
            return False
        check_fits(checkpoint.path, record.config)
        check_place(checkpoint, self.store, record.id, [one.sha256 for one in record.checkpoints])
        self.store.note(record.id, self._facts(record.id, record.info.get("checkpoints") or (), checkpoint))
        self._upload(record.id)
        return True

    def _upload(self, run_id: int) -> None:
        """Copy a run's checkpoints into a store that stores any; a failed upload can be repeated later."""
        if not self.upload:
            return
        try:
            upload_missing(self.store.get(run_id))
        except StoreError as error:
            log.warning("The checkpoint of run %s is on this machine only ('runs sync' uploads it): %s", run_id, error)


def usable(run: ForeignRun, checkpoint: ImportedCheckpoint) -> bool:
    """Return whether a checkpoint can be added to a run: only if its configuration could be translated."""
    if run.problem:
        return False
    try:
        check_fits(checkpoint.path, run.document["config"])
    except (ConfigError, CheckpointError):
        return False
    return True


def _is_checkpoint_alone(identity: str) -> bool:
    return identity.startswith("checkpoint ")


def _lacks_a_checkpoint(taken: RunRecord, run: ForeignRun) -> bool:
    """Return whether ``taken`` is the imported record of the training that the checkpoint ``run`` belongs to."""
    return (taken.info.get(ORIGIN) or {}).get("original_id") == run.id and not taken.checkpoints


def _is_record_of(run: ForeignRun, taken: RunRecord) -> bool:
    """Return whether ``taken``, imported from its checkpoint alone, is the run whose full record is ``run``."""
    origin = taken.info.get(ORIGIN) or {}
    alone = _is_checkpoint_alone(str(origin.get("identity")))
    return alone and origin.get("original_id") == run.id and not _is_checkpoint_alone(run.identity)


def _held(taken: RunRecord, exported: PortableRun) -> ImportedCheckpoint | None:
    """Return the newest checkpoint of an exported run; None if it had none."""
    if not taken.checkpoints:
        return None
    last = taken.checkpoint("last")
    path = exported.checkpoint(last.sha256)
    known = bool((taken.info.get("checkpoint_file") or {}).get("iteration_known"))
    return None if path is None else ImportedCheckpoint(path, last.sha256, last.iteration, known, last.model.url)
