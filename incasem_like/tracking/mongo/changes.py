"""Changes to runs that are kept in MongoDB, made from outside the run: tags and notes, its end, its deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.moments import naive_utc
from incasem_like.tracking.mongo.shared_files import free_files, free_unnamed, stored_files
from incasem_like.tracking.mongo.summaries import REVISION, UNFINISHED
from incasem_like.tracking.plain import plain, to_bson
from incasem_like.tracking.recording.sessions import new_token
from incasem_like.tracking.summaries import as_sequence

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

    from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles

DELETING, IMPORTING = "deleting", "importing"


def change_annotations(
    database: Database[Any], run_id: int, add_tags: Sequence[str], remove_tags: Sequence[str], notes: str | None
) -> bool:
    """Change tags and notes where Omniboard keeps them; False where there is no such run."""
    runs, which = database["runs"], {"_id": run_id, UNFINISHED: {"$exists": False}}
    change: dict[str, Any] = {"$addToSet": {"omniboard.tags": {"$each": list(dict.fromkeys(add_tags))}}}
    if notes is not None:
        change["$set"] = {"omniboard.notes": notes}
    if runs.update_one(which, change).matched_count == 0:
        return False
    if remove_tags:
        runs.update_one(which, {"$pull": {"omniboard.tags": {"$in": list(remove_tags)}}})
    return True


def write_end(
    database: Database[Any], run_id: int, heartbeat: datetime | None, status: str, stop_time: datetime | None
) -> bool:
    """Write how a run ended; False where it was heard of since ``heartbeat``, or says by itself how it ended."""
    which = {"_id": run_id, "status": "RUNNING", "heartbeat": naive_utc(heartbeat)}
    changed = database["runs"].update_one(which, {"$set": {"status": status, "stop_time": naive_utc(stop_time)}})
    return bool(changed.matched_count)


def write_notes(database: Database[Any], run_id: int, session: str | None, facts: Mapping[str, Any]) -> bool:
    """Write entries of a run's info; False where it is not that session's any more."""
    entries = {f"info.{key}": value for key, value in to_bson(plain(facts)).items()} | {REVISION: new_token()}
    return bool(database["runs"].update_one({"_id": run_id, "session": session}, {"$set": entries}).matched_count)


def take_from_sight(database: Database[Any], run_id: int, session: str | None) -> bool:
    """Mark a run so that no reader takes it for a run any more; False where it is not that session's any more."""
    # Without its session nobody who looked at it before can take it to continue it.
    mark = {"$set": {UNFINISHED: DELETING, "session": DELETING}}
    return bool(database["runs"].update_one({"_id": run_id, "session": session}, mark).matched_count)


def half_deleted(database: Database[Any]) -> list[int]:
    """List the ids of runs that were taken from sight and are not gone yet."""
    return sorted(run["_id"] for run in database["runs"].find({UNFINISHED: DELETING}, {"_id": 1}))


def free_run(database: Database[Any], files: gridfs.GridFS, checkpoints: CheckpointFiles, run_id: int) -> Freed:
    """Delete a run that was taken from sight: metrics and files first, its document last; may be called again."""
    document = database["runs"].find_one({"_id": run_id}) or {}
    metrics = database["metrics"].delete_many({"run_id": run_id}).deleted_count
    artifacts = free_files(database, files, artifact_ids(database, document))
    stored = len(checkpoints.of_run(run_id))
    stored_bytes = checkpoints.remove_run(run_id)
    shared = {stored.file_id: stored.key for stored in stored_files(database, document)}
    sources = free_unnamed(database, files, shared, apart_from=run_id)
    database["runs"].delete_one({"_id": run_id})
    return Freed(
        runs=1,
        metrics=metrics,
        artifacts=artifacts.artifacts,
        sources=sources.artifacts,
        stored_checkpoints=stored,
        bytes=artifacts.bytes + sources.bytes + stored_bytes,
    )


def artifact_ids(database: Database[Any], document: Mapping[str, Any]) -> set[Any]:
    """Find the files of a run's artifacts: those it names, and those stored for it that it does not name (yet)."""
    named = {entry.get("file_id") for entry in as_sequence(document.get("artifacts")) if isinstance(entry, Mapping)}
    prefix = f"artifact://{database['runs'].name}/{document.get('_id')}/"
    stored = database["fs.files"].find({"filename": {"$regex": f"^{prefix}"}}, {"_id": 1})
    return {file_id for file_id in named if file_id is not None} | {file["_id"] for file in stored}
