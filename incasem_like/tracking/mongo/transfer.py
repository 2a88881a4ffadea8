"""Runs that are kept in MongoDB, on the move: the sources of a run, and taking a run in."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gridfs.errors
import pymongo.errors
from bson import ObjectId

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.address import singular
from incasem_like.tracking.moments import naive_utc
from incasem_like.tracking.mongo.changes import IMPORTING
from incasem_like.tracking.mongo.delivery import Delivery, series_update
from incasem_like.tracking.mongo.shared_files import keep, name_in_run, stored_files
from incasem_like.tracking.mongo.starting import FORMAT, clear_metrics, highest_id, note_id
from incasem_like.tracking.mongo.summaries import REVISION, UNFINISHED
from incasem_like.tracking.plain import plain, to_bson
from incasem_like.tracking.recording.sessions import new_token, tokens
from incasem_like.tracking.series import BoundedSeries, max_points

if TYPE_CHECKING:
    from pymongo.database import Database

    from incasem_like.tracking.mongo.store import MongoStore
    from incasem_like.tracking.transfer.portable import PortableRun, RenewedIds

_TIMES = ("start_time", "stop_time", "heartbeat")


def read_stored(store: MongoStore, document: Mapping[str, Any]) -> Iterator[tuple[str, bytes | None]]:
    """Read the sources or resources that a document names: name, content or None."""
    for stored in stored_files(store.database, document):
        try:
            yield stored.name, bytes(store.files.get(stored.file_id).read())
        except gridfs.errors.NoFile:
            yield stored.name, None


def receive(
    store: MongoStore,
    portable: PortableRun,
    wanted: int | None,
    id_above: int,
    renew: Callable[[int], RenewedIds],
) -> int:
    """Take a run in, see ``RunStore.receive``; until all of it is there, its document is marked as unfinished."""
    run_id = _reserve(store, portable, wanted, id_above)
    try:
        _fill(store, portable, run_id, renew(run_id))
    except BaseException as error:
        with contextlib.suppress(pymongo.errors.PyMongoError, StoreError):
            store.free_record(run_id)
        if isinstance(error, pymongo.errors.DocumentTooLarge):
            raise InputError(
                f"{singular(portable.kind).capitalize()} run {portable.id} of {portable.origin} is too large for a "
                "document of MongoDB (16 MiB): keep it as files."
            ) from None
        raise
    return run_id


def half_received(database: Database[Any]) -> dict[int, float]:
    """List the runs that are marked as being taken in: id, seconds since that began."""
    now = _now()
    found = database["runs"].find({UNFINISHED: IMPORTING}, {"heartbeat": 1})
    return {run["_id"]: (now - (run.get("heartbeat") or now)).total_seconds() for run in found}


def _reserve(store: MongoStore, portable: PortableRun, wanted: int | None, id_above: int) -> int:
    runs = store.database["runs"]
    while True:
        run_id = max(highest_id(store.database), id_above) + 1 if wanted is None else wanted
        mark = {"_id": run_id, UNFINISHED: IMPORTING, "status": "IMPORTING", "heartbeat": _now()}
        try:
            runs.insert_one(mark)
        except pymongo.errors.DuplicateKeyError:
            if wanted is not None:
                raise InputError(f"There is a run {wanted} in {store.description} already: import it anew.") from None
            continue
        note_id(store.database, run_id)
        clear_metrics(store.database, run_id)
        return run_id


def _fill(store: MongoStore, portable: PortableRun, run_id: int, renewed: RenewedIds) -> None:
    document = {**to_bson(plain(portable.document))}
    document.update({key: naive_utc(document[key]) for key in _TIMES if key in document})
    kept = _keep_stored(store, portable)
    links = _write_metrics(store, portable, run_id, str(document.get("session") or ""))
    document.update(
        _id=run_id,
        format=document.get("format") or FORMAT,
        experiment={**(document.get("experiment") or {}), "sources": kept["experiment.sources"]},
        resources=kept["resources"],
        artifacts=[_put_artifact(store, run_id, *each) for each in portable.artifacts()],
        config=to_bson(plain(portable.config)),
        info={**to_bson(plain(renewed.info)), "metrics": links},
        result=to_bson(plain(renewed.result)),
        captured_out=portable.output,
    )
    document[REVISION] = new_token()
    if portable.annotations:
        document["omniboard"] = to_bson(plain(portable.annotations))
    if portable.metrics_log is not None:
        _keep_log(store, run_id, tokens(renewed.info), portable.metrics_log)
    store.database["runs"].replace_one({"_id": run_id, UNFINISHED: IMPORTING}, document)
    name_in_run(store.database, run_id, kept, partial(_keep_stored, store, portable))


def _write_metrics(store: MongoStore, portable: PortableRun, run_id: int, session: str) -> list[dict[str, str]]:
    """Write the metrics, at most as many points of each as the run's configuration says; gives the links to them."""
    delivery = Delivery(store.database, store.files, run_id, session)
    limit = max_points(portable.config)
    links = []
    for name, points in portable.metrics.items():
        update = series_update(name, run_id, BoundedSeries.from_document(points, limit), None)
        assert update is not None
        links.append(delivery.link(name))
        owner = {"session": session} if session else {}
        store.database["metrics"].insert_one({"_id": ObjectId(links[-1]["id"]), **update[0], **owner})
    return links


def _keep_stored(store: MongoStore, portable: PortableRun) -> dict[str, list[Any]]:
    """Keep the run's sources and resources; gives what its document says of them, by field."""
    base = str((portable.document.get("experiment") or {}).get("base_dir") or "")
    return {
        "experiment.sources": [_keep(store, base, *each) for each in portable.stored("sources")],
        "resources": [_keep(store, base, *each) for each in portable.stored("resources")],
    }


def _keep(store: MongoStore, base: str, name: str, path: Path | None, noted: str) -> list[Any]:
    if path is None:
        return [name, noted]
    content = path.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return [name, keep(store.database, store.files, str(Path(base) / name), md5, lambda: content)]


def _put_artifact(store: MongoStore, run_id: int, name: str, path: Path) -> dict[str, Any]:
    address = f"artifact://{store.database['runs'].name}/{run_id}/{name}"
    with open(path, "rb") as content:
        file_id = store.files.put(content, filename=address, content_type=mimetypes.guess_type(name)[0])
    return {"name": name, "file_id": file_id}


def _keep_log(store: MongoStore, run_id: int, sessions: list[str], log: Path) -> None:
    """Keep all metrics where the store looks for them on this machine, unless they are there."""
    if store.journals.complete_log(run_id, sessions) is None:
        shutil.copyfile(log, store.journals.make(run_id).log.path)


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
