"""Imports: which id a run gets, whether it is there already, and a checkpoint for a run that came without one."""

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
    """What became of a run that was to be imported.

    Attributes:
        run_id: Its id in the store.
        run: What was imported.
        how: ``imported`` now; its ``checkpoint`` added to a run imported earlier; ``there`` already.
    """

    run_id: int
    run: ForeignRun
    how: Literal["imported", "checkpoint", "there"]


class Importer:
    """Takes foreign trainings into a store.

    Args:
        store: Of trainings.
        run_id: The id that the next run is to get; by default that which it had.
        remap: Give a run whose id is taken another one.
        replace: Let a run take the place of one of its id that was imported earlier.
        upload: Copy checkpoints into the store, where it keeps any.
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
        """Import a training, with its checkpoint where it has one; a second time does nothing.

        Raises:
            InputError: Its id is taken by another run, or the folder of its checkpoints is.
            CheckpointError: The checkpoint does not belong to the run's network.
            DataError: What it is read from is damaged.
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
        """Bring a checkpoint to its run; gives what the run is to note of it beside the ``entries`` it has."""
        facts: dict[str, Any] = {"runs_directory": str(self.store.runs_directory)}
        if checkpoint is not None:
            entry = place(checkpoint, self.store, run_id)
            facts |= {"checkpoints": [*entries, entry], "checkpoint_file": checkpoint.notes}
        return facts

    def _write_in_place_of(self, taken: RunRecord, run: ForeignRun, checkpoint: ImportedCheckpoint | None) -> int:
        """Write a run in the place of an earlier import, whose checkpoint, tags and notes it keeps."""
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
        """Find the run that an earlier import of the same made; of a checkpoint alone, any that has it."""
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
        """Give a run a checkpoint that it lacks; says whether it lacked it."""
        if any(one.sha256 == checkpoint.sha256 for one in record.checkpoints):
            return False
        check_fits(checkpoint.path, record.config)
        check_place(checkpoint, self.store, record.id, [one.sha256 for one in record.checkpoints])
        self.store.note(record.id, self._facts(record.id, record.info.get("checkpoints") or (), checkpoint))
        self._upload(record.id)
        return True

    def _upload(self, run_id: int) -> None:
        """Copy a run's checkpoints into a store that keeps any; what it does not take now, it can be given later."""
        if not self.upload:
            return
        try:
            upload_missing(self.store.get(run_id))
        except StoreError as error:
            log.warning("The checkpoint of run %s is on this machine only ('runs sync' uploads it): %s", run_id, error)


def usable(run: ForeignRun, checkpoint: ImportedCheckpoint) -> bool:
    """Say whether a checkpoint can be given to a run; not where its configuration could not be translated."""
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
    """Say whether a run is the imported record of a training of which ``run`` is the checkpoint."""
    return (taken.info.get(ORIGIN) or {}).get("original_id") == run.id and not taken.checkpoints


def _is_record_of(run: ForeignRun, taken: RunRecord) -> bool:
    """Say whether a run that was imported from its checkpoint alone is the one whose whole record comes now."""
    origin = taken.info.get(ORIGIN) or {}
    alone = _is_checkpoint_alone(str(origin.get("identity")))
    return alone and origin.get("original_id") == run.id and not _is_checkpoint_alone(run.identity)


def _held(taken: RunRecord, exported: PortableRun) -> ImportedCheckpoint | None:
    """Find the newest checkpoint of a run that was exported; None where it had none."""
    if not taken.checkpoints:
        return None
    last = taken.checkpoint("last")
    path = exported.checkpoint(last.sha256)
    known = bool((taken.info.get("checkpoint_file") or {}).get("iteration_known"))
    return None if path is None else ImportedCheckpoint(path, last.sha256, last.iteration, known, last.model.url)
