"""Copies of checkpoints in GridFS: streamed in pieces, known by run and hash, resumed after a break."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo.errors
from pymongo.database import Database

from incasem_like.errors import CheckpointError
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import StoredFile
from incasem_like.tracking.stores.connection import reason_of, server_errors
from incasem_like.tracking.values import from_bson, to_bson

CHUNK_BYTES = 1 << 20
_CHUNKS_IN_ONE_ANSWER = 8
_CHANGED = "{path} changed after it was tracked, so the database gets no copy of it: restore it or train on."
_INDEX = "files_id_1_n_1"  # every driver's GridFS makes it with the first file
_SCHEME = "checkpoint://runs/"


class CheckpointFiles:
    """The checkpoints in one database, in its GridFS (``fs.files``, ``fs.chunks``).

    A file's id is made of its run and hash. What a broken upload left is therefore known by its id: the next one goes
    on from there, and until its last piece is in, no entry exists that anybody could take for a whole file.

    Methods raise ``StoreError`` when the server does not answer or refuses; ``session``, ``upload`` and ``remove``,
    which the upload's thread calls, raise pymongo's own errors.
    """

    def __init__(
        self, database: Database[Any], description: str, reconnect: Callable[[], Database[Any]] | None = None
    ) -> None:
        self.description, self._database, self._reconnect = description, database, reconnect
        self._files, self._chunks = database["fs.files"], database["fs.chunks"]

    reason_of = staticmethod(reason_of)

    @contextlib.contextmanager
    def on_own_connection(self) -> Iterator[CheckpointFiles]:
        """Yield the same files through another connection, so that a slow upload delays nothing else."""
        if self._reconnect is None:
            yield self
            return
        database = self._reconnect()
        try:
            yield CheckpointFiles(database, self.description)
        finally:
            database.client.close()

    def of_run(self, run_id: int | None) -> list[StoredFile]:
        """List the files of a run, or of all runs."""
        with self.as_store_errors():
            found = list(self._files.find(_of_run("_id", run_id)))
        stored = []
        for file in found:
            kept, name = from_bson(file["metadata"]), str(file["filename"]).rpartition("/")[2]
            entry = dict(kept.get("entry") or {})
            stored.append(StoredFile(file["_id"], kept["run_id"], kept["sha256"], file["length"], name, entry))
        return stored

    def session(self, run_id: int) -> str | None:
        """Return the token of the process that has a run; None where the run is not there or has none."""
        found = self._database["runs"].find_one({"_id": run_id}, {"session": 1}) or {}
        return found.get("session")

    def read(self, stored: StoredFile) -> Iterator[bytes]:
        """Yield a file's content in chunks; the caller compares the hash."""
        with self.as_store_errors():
            pieces = self._chunks.find({"files_id": stored.id}, {"data": 1}).sort("n", pymongo.ASCENDING)
            for piece in pieces.batch_size(_CHUNKS_IN_ONE_ANSWER):
                yield bytes(piece["data"])

    def upload(
        self,
        path: Path,
        run_id: int,
        sha256: str,
        entry: Mapping[str, Any] | None = None,
        proceed: Callable[[int], object] = lambda count: True,
    ) -> bool:
        """Copy a file that has a certain hash into the database; holds one piece of it in memory at a time.

        Args:
            entry: Of a model's file the run's entry of the checkpoint.
            proceed: Called before each piece with its length; False gives the upload up.

        Returns:
            Whether it is in; False when it was given up, and pieces are left to resume from.

        Raises:
            CheckpointError: The file is not the one of that hash any more.
            OSError: The file is missing or cannot be read.
        """
        file_id = f"{_prefix(run_id)}{sha256}"
        if self._files.find_one({"_id": file_id}, {"_id": 1}) is not None:
            return True
        if file_sha256(path) != sha256:  # before a piece is sent, for pieces that are in are not compared again
            raise CheckpointError(_CHANGED.format(path=path))
        if _INDEX not in self._chunks.index_information():
            self._chunks.create_index([("files_id", 1), ("n", 1)], unique=True)
        digest, length = hashlib.sha256(), 0
        # What an earlier upload left counts if it is the first pieces without a gap.
        present = int(self._chunks.count_documents({"files_id": file_id}))
        if present and self._chunks.find_one({"files_id": file_id, "n": {"$gte": present}}, {"n": 1}):
            self._chunks.delete_many({"files_id": file_id})
            present = 0
        with open(path, "rb") as file:
            for number, piece in enumerate(iter(lambda: file.read(CHUNK_BYTES), b"")):
                if proceed(len(piece)) is False:
                    return False
                digest.update(piece)
                length += len(piece)
                if number >= present:
                    # Its acknowledgement may have been lost before; what has this id has this content.
                    with contextlib.suppress(pymongo.errors.DuplicateKeyError):
                        self._chunks.insert_one({"files_id": file_id, "n": number, "data": piece})
        if digest.hexdigest() != sha256:
            self.remove([file_id])
            raise CheckpointError(_CHANGED.format(path=path))
        if self._chunks.count_documents({"files_id": file_id}) != -(-length // CHUNK_BYTES):
            self.remove([file_id])  # another process took pieces out in the meantime
            return False
        document = {
            "filename": f"{_prefix(run_id)}{path.name}",
            "length": length,
            "chunkSize": CHUNK_BYTES,
            "uploadDate": datetime.now(UTC),
            "contentType": "application/octet-stream",
            "metadata": to_bson({"run_id": run_id, "sha256": sha256, "entry": entry or {}}),
        }
        self._files.update_one({"_id": file_id}, {"$setOnInsert": document}, upsert=True)
        return True

    def remove(self, ids: Iterable[str]) -> None:
        """Delete files, the entry first, so that no entry is ever without its chunks."""
        for file_id in ids:
            self._files.delete_one({"_id": file_id})
            self._chunks.delete_many({"files_id": file_id})

    def remove_run(self, run_id: int) -> int:
        """Delete all files of a run, and chunks that broken uploads left; return the bytes of the whole files."""
        with self.as_store_errors():
            whole = self.of_run(run_id)
            self.remove([stored.id for stored in whole])
            self._chunks.delete_many(_of_run("files_id", run_id))
        return sum(stored.bytes for stored in whole)

    def remove_partial(self, run_id: int) -> int:
        """Delete chunks of a run that broken uploads left, none of which may be at work; return their number."""
        with self.as_store_errors():
            whole = [stored.id for stored in self.of_run(run_id)]
            which = {"$and": [_of_run("files_id", run_id), {"files_id": {"$nin": whole}}]}
            return int(self._chunks.delete_many(which).deleted_count)

    def as_store_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the server into ``StoreError``."""
        return server_errors(self.description, "read or written")


def _prefix(run_id: int) -> str:
    return f"{_SCHEME}{run_id}/"


def _of_run(key: str, run_id: int | None) -> dict[str, Any]:
    return {key: {"$regex": f"^{_SCHEME if run_id is None else _prefix(run_id)}"}}
