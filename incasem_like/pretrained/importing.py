"""Writing trainings of other programs into a store: their ids, earlier imports of them, and their checkpoints."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from incasem_like.disk import copy_whole
from incasem_like.errors import CheckpointError, ConfigError, InputError
from incasem_like.pretrained.checkpoint_run import OF_CHECKPOINT, ImportedCheckpoint, check_fits, read_imported
from incasem_like.pretrained.foreign import ORIGIN, ForeignRun
from incasem_like.tracking import RunRecord, RunStore
from incasem_like.tracking.mirror.checkpoints import try_upload
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import highest_number, models_folder
from incasem_like.tracking.moving.model_files import delete_run, share
from incasem_like.tracking.moving.transfer import export_run, import_runs
from incasem_like.tracking.run_folder import PortableRun, RunFolder
from incasem_like.tracking.series import max_points
from incasem_like.tracking.sessions import Start, describe_session, new_token
from incasem_like.tracking.values import as_mapping, naive_utc, now


@dataclass(frozen=True)
class Imported:
    """The result of importing a run.

    ``how`` is ``imported`` now; its ``checkpoint`` added to a run imported earlier; ``there`` already.
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
        """
        same = self._find_same(run, checkpoint)
        if same is not None:
            added = checkpoint is not None and self._complete(same, checkpoint)
            return Imported(same.id, run, "checkpoint" if added else "there")
        wanted = self.run_id or run.id
        present = None if wanted is None else self.store.find(wanted)
        if present is None:
            return Imported(self._write(run, checkpoint, wanted), run, "imported")
        earlier = present.info.get(ORIGIN) or {}
        is_same_training = bool(earlier) and earlier.get("original_id") == run.id
        was_alone = str(earlier.get("identity")).startswith(OF_CHECKPOINT)
        is_alone = run.identity.startswith(OF_CHECKPOINT)
        if is_same_training and checkpoint is not None and is_alone and not present.checkpoints:
            self._complete(present, checkpoint)  # the run's record was imported earlier
            return Imported(present.id, run, "checkpoint")
        if (is_same_training and was_alone and not is_alone) or (self.replace and earlier):
            return Imported(self._replace(present, run, checkpoint), run, "imported")
        if self.remap:
            return Imported(self._write(run, checkpoint, None), run, "imported")
        named = f" ({present.name})" if present.name else ""
        raise InputError(
            f"The id {present.id} is taken by another run{named} in {self.store.description}: add --id ID to choose "
            "another, or --remap to take the next free one"
            f"{', or --replace to put it in the place of that earlier import' if earlier else ''}."
        )

    def _find_same(self, run: ForeignRun, checkpoint: ImportedCheckpoint | None) -> RunRecord | None:
        """Return the run that an earlier import made; for a checkpoint alone, any run that has it."""
        sha256 = checkpoint.sha256 if checkpoint is not None and run.identity.startswith(OF_CHECKPOINT) else None
        for summary in self.store.summaries():
            if sha256 is not None and any(one.sha256 == sha256 for one in summary.checkpoints):
                return self.store.get(summary.id)
            if summary.name == run.name or summary.id == run.id:
                record = self.store.get(summary.id)
                if (record.info.get(ORIGIN) or {}).get("identity") == run.identity:
                    return record
        return None

    def _write(self, run: ForeignRun, checkpoint: ImportedCheckpoint | None, wanted: int | None) -> int:
        if checkpoint is not None:
            check_fits(checkpoint, run.document["config"])
            if wanted is not None:
                _check_folder(checkpoint, self.store, wanted)
        run_id = write_run(run, self.store, wanted, lambda found: self._place(found, (), checkpoint))
        if checkpoint is not None and self.upload:
            try_upload(self.store.get(run_id))
        return run_id

    def _replace(self, present: RunRecord, run: ForeignRun, checkpoint: ImportedCheckpoint | None) -> int:
        """Replace an earlier import by a run, keeping its checkpoint, tags and notes; undone if that fails."""
        noted = as_mapping(run.document.get("omniboard"))
        tags = list(dict.fromkeys([*(noted.get("tags") or ()), *present.tags]))
        noted = {"tags": tags, "notes": present.notes or noted.get("notes") or ""}
        with tempfile.TemporaryDirectory(prefix=".import-", dir=self.store.runs_directory) as temporary:
            before = export_run(present, Path(temporary) / "before")
            if checkpoint is None and present.checkpoints:
                last = present.checkpoint("last")
                known = bool((present.info.get("checkpoint_file") or {}).get("iteration_known"))
                if path := PortableRun(before).checkpoint(last.sha256):
                    checkpoint = read_imported(path, last.iteration if known else None, last.url)
            if checkpoint is not None and not usable(run, checkpoint):
                checkpoint = None
            delete_run(self.store, present.id, force=True)
            try:
                return self._write(replace(run, document={**run.document, "omniboard": noted}), checkpoint, present.id)
            except BaseException:
                import_runs([before], self.store)
                raise

    def _complete(self, record: RunRecord, checkpoint: ImportedCheckpoint) -> bool:
        """Add a checkpoint to a run that lacks it; return whether it lacked it."""
        registered = [one.sha256 for one in record.checkpoints]
        if checkpoint.sha256 in registered:
            return False
        check_fits(checkpoint, record.config)
        _check_folder(checkpoint, self.store, record.id, registered)
        self.store.note(record.id, self._place(record.id, record.info.get("checkpoints") or (), checkpoint))
        if self.upload:
            try_upload(self.store.get(record.id))
        return True

    def _place(self, run_id: int, entries: Sequence[Any], checkpoint: ImportedCheckpoint | None) -> dict[str, Any]:
        """Copy a checkpoint to its run, and return what to add to the run's ``info``, given its present ``entries``."""
        info: dict[str, Any] = {"runs_directory": str(self.store.runs_directory)}
        if checkpoint is None:
            return info
        target = _target(checkpoint, self.store, run_id)
        if not _has_sha256(target, checkpoint.sha256):
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_whole(checkpoint.path, target, link=True)
            if not _has_sha256(target, checkpoint.sha256):
                target.unlink()
                raise InputError(f"{checkpoint.path} changed while it was imported: run the same command again.")
        # Another store may have the same run; deleting it from one of them must keep the files.
        share(target.parent, [(self.store.description, run_id)])
        path, size = target.relative_to(self.store.runs_directory).as_posix(), target.stat().st_size
        entry = {
            "iteration": checkpoint.iteration,
            "path": path,
            "sha256": checkpoint.sha256,
            "bytes": size,
            "metrics": {},
        }
        entry |= {"url": checkpoint.url} if checkpoint.url else {}
        notes = {"file": checkpoint.path.name, "iteration_known": checkpoint.iteration_known}
        return info | {"checkpoints": [*entries, entry], "checkpoint_file": notes}


def usable(run: ForeignRun, checkpoint: ImportedCheckpoint) -> bool:
    """Return whether a checkpoint can be added to a run: only if its configuration could be translated."""
    if run.problem:
        return False
    try:
        check_fits(checkpoint, run.document["config"])
    except (ConfigError, CheckpointError):
        return False
    return True


def write_run(run: ForeignRun, store: RunStore, run_id: int | None, note: Callable[[int], Mapping[str, Any]]) -> int:
    """Write a training as a finished run, atomically: everything is read before the store is changed. Return its id.

    Args:
        run: The training.
        store: The store to write to.
        run_id: Its id there; None for the store's next one.
        note: Returns, for the id of the run, what to add to its own ``info``.

    Raises:
        InputError: A run of that id exists.
    """
    document, token = run.document, new_token()
    times = {key: naive_utc(document[key]) for key in ("start_time", "stop_time", "heartbeat")}
    with tempfile.TemporaryDirectory(prefix="incasem-import-") as temporary:
        folder = RunFolder(Path(temporary))
        folder.log.open()
        with contextlib.closing(folder.log):
            folder.log.begin(token, max_points(document["config"]))
            for name, metric in run.metrics.items():
                moments = [naive_utc(moment) for moment in metric.timestamps]
                points = {"steps": list(metric.steps), "values": list(metric.values), "timestamps": moments}
                folder.log.take({name: points})
        folder.write("metrics.json", folder.log.table.as_documents())
        sources = folder.write_shared("sources", run.sources.items())
        experiment = {**document["experiment"], "sources": sources}
        began = times["start_time"] or now()
        start = Start(experiment, "train", document["host"], began, document["config"], document["meta"])
        info = {**document["info"], "summary": folder.log.table.summary, "sessions": [describe_session(token, start)]}
        changed: dict[str, Any] = {**times, "experiment": experiment, "session": token, "info": info, "resources": []}
        folder.write_document({**document, **changed, "artifacts": list(run.artifacts)})
        for name, content in run.artifacts.items():
            folder.artifact(name).write_bytes(content)
        folder.write_manifest(store.kind, run.id or 0, run.identity)
        portable = PortableRun(folder.folder)
        return store.put(
            portable,
            run_id,
            highest_number(store.runs_directory),
            lambda found: ({**portable.info, **note(found)}, portable.document.get("result")),
        )


def _check_folder(checkpoint: ImportedCheckpoint, store: RunStore, run_id: int, registered: Sequence[str] = ()) -> None:
    """Check that a checkpoint can be stored in the folder of a run, which has those of the hashes ``registered``.

    Raises:
        InputError: The folder holds checkpoints of a run of the same id in another store; or the run has another
            checkpoint of the same iteration.
    """
    target = _target(checkpoint, store, run_id)
    own = {checkpoint.sha256, *registered}
    if any(file_sha256(path) not in own for path in target.parent.glob("model_checkpoint_*")):
        raise InputError(
            f"{target.parent} already holds checkpoints, of a run {run_id} that is not in {store.description}: choose "
            "another --id, or move them away."
        )
    if target.exists() and not _has_sha256(target, checkpoint.sha256):
        raise InputError(
            f"Run {run_id} in {store.description} has another checkpoint of iteration {checkpoint.iteration}: import "
            "this one under another --id."
        )


def _target(checkpoint: ImportedCheckpoint, store: RunStore, run_id: int) -> Path:
    return models_folder(store.runs_directory, run_id) / f"model_checkpoint_{checkpoint.iteration}"


def _has_sha256(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256
