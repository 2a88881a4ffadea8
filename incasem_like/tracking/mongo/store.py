"""Runs kept in MongoDB, as Sacred and Omniboard know them; the database of a kind is ``incasem_<kind>``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import gridfs
import gridfs.errors
import pymongo.errors

from incasem_like.errors import InputError, RunNotFoundError, StoreError
from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.journal import Journal, Journals
from incasem_like.tracking.moments import as_utc
from incasem_like.tracking.mongo import changes, transfer
from incasem_like.tracking.mongo.refusals import no_answer, refusal
from incasem_like.tracking.mongo.summaries import UNFINISHED, read_summaries
from incasem_like.tracking.plain import from_bson, without_credentials
from incasem_like.tracking.recording.sessions import tokens
from incasem_like.tracking.records import Metric, RunRecord
from incasem_like.tracking.store import RunStore, refuse_empty_tags
from incasem_like.tracking.summaries import as_mapping, as_sequence

if TYPE_CHECKING:
    from pymongo.database import Database

    from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles
    from incasem_like.tracking.mongo.observer import MongoRunObserver
    from incasem_like.tracking.mongo.starting import Place
    from incasem_like.tracking.mongo.undelivered import Outcome
    from incasem_like.tracking.summaries import RunSummary
    from incasem_like.tracking.transfer.portable import PortableRun, RenewedIds

_WHOLE = {UNFINISHED: {"$exists": False}}  # not one that is half deleted
_FIELDS_WITH_OUR_KEYS = ("config", "info", "result", "meta", "host")


class MongoStore(RunStore):
    """Runs in one database.

    Args:
        database: pymongo's (or mongomock's) database.
        kind: trainings, predictions, segmentations or evaluations.
        runs_directory: See ``RunStore``; what a missing server does not take is kept below it.
        server: The server's address without credentials, for messages.
        reconnect: Opens the same database through another connection, for uploads beside the run's own record.
        databases: Names the database of each kind; by default they differ in their last word alone.
    """

    def __init__(
        self,
        database: Database[Any],
        kind: str,
        runs_directory: Path,
        server: str = "MongoDB",
        reconnect: Callable[[], Database[Any]] | None = None,
        databases: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(
            kind, runs_directory, description=f"MongoDB database {database.name} at {without_credentials(server)}"
        )
        self.database, self._reconnect = database, reconnect
        self.files, self.server = gridfs.GridFS(database), str(without_credentials(server))
        prefix = database.name.removesuffix(f"_{kind}")
        self._databases = databases or (lambda other: f"{prefix}_{other}")

    def ids(self) -> list[int]:  # noqa: D102
        with self.errors():
            found = [run["_id"] for run in self.database["runs"].find(_WHOLE, {"_id": 1})]
        return sorted(run_id for run_id in found if isinstance(run_id, int))

    def read_document(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id, **_WHOLE})
        return None if found is None else self._plain(found)

    @staticmethod
    def _plain(found: dict[str, Any]) -> dict[str, Any]:
        document = {key: from_bson(value) if key in _FIELDS_WITH_OUR_KEYS else value for key, value in found.items()}
        artifacts = [entry for entry in as_sequence(found.get("artifacts")) if isinstance(entry, Mapping)]
        document["artifacts"] = [str(entry.get("name")) for entry in artifacts]
        document["info"] = {key: value for key, value in as_mapping(document.get("info")).items() if key != "metrics"}
        return document

    def read_metrics(self, run_id: int) -> dict[str, Metric]:  # noqa: D102
        with self.errors():
            found = list(self.database["metrics"].find({"run_id": run_id}))
        return {
            series["name"]: Metric(
                series["name"],
                tuple(series["steps"]),
                tuple(series["values"]),
                tuple(map(as_utc, series["timestamps"])),
            )
            for series in found
        }

    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:  # noqa: D102
        with self.errors():
            found = list(self.database["metrics"].find({"run_id": run_id}))
        keys = ("steps", "values", "timestamps", "stride", "count")
        return {series["name"]: {key: series[key] for key in keys if key in series} for series in found}

    def read_stored(self, run_id: int, what: Literal["sources", "resources"]) -> Iterator[tuple[str, bytes | None]]:  # noqa: D102
        document = self.read_document(run_id) or {}
        key = "resources" if what == "resources" else "experiment"
        with self.errors():
            yield from transfer.read_stored(self, {key: document.get(key)})

    def is_free(self, run_id: int) -> bool:  # noqa: D102
        with self.errors():
            return self.database["runs"].find_one({"_id": run_id}, {"_id": 1}) is None

    def receive(  # noqa: D102
        self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]
    ) -> int:
        with self.errors("written"):
            return transfer.receive(self, portable, wanted, id_above, renew)

    def half_received(self) -> dict[int, float]:  # noqa: D102
        with self.errors():
            return transfer.half_received(self.database)

    def free_half_received(self, run_id: int) -> None:  # noqa: D102
        with self.errors("written"):
            if self.database["runs"].find_one({"_id": run_id, UNFINISHED: changes.IMPORTING}, {"_id": 1}) is not None:
                self.free_record(run_id)

    def read_artifact(self, run_id: int, name: str) -> bytes:  # noqa: D102
        with self.errors():
            run = self.database["runs"].find_one({"_id": run_id}, {"artifacts": 1}) or {}
            file_id = next(entry["file_id"] for entry in run["artifacts"] if entry["name"] == name)
            return bytes(self.files.get(file_id).read())

    @property
    def checkpoint_files(self) -> CheckpointFiles:  # noqa: D102
        from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles

        return CheckpointFiles(self.database, self.description, self._reconnect)

    def sibling(self, kind: str) -> MongoStore:  # noqa: D102
        name, reopen = self._databases(kind), self._reconnect
        reconnect = None if reopen is None else lambda: reopen().client[name]
        database = self.database.client[name]
        return MongoStore(database, kind, self.runs_directory, self.server, reconnect, self._databases)

    def summaries(  # noqa: D102
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        with self.errors():
            return read_summaries(
                self.database, f"{self.server}/{self.database.name}", self.kind, config_keys, inputs, metrics
            )

    def annotate(  # noqa: D102
        self, run_id: int, *, add_tags: Sequence[str] = (), remove_tags: Sequence[str] = (), notes: str | None = None
    ) -> None:
        refuse_empty_tags(add_tags)
        with self.errors("written"):
            found = changes.change_annotations(self.database, run_id, add_tags, remove_tags, notes)
        if not found:
            raise RunNotFoundError(self._not_found(run_id))

    def set_state(self, run_id: int, status: str, stop_time: datetime | None) -> None:  # noqa: D102
        record = self._without_end(run_id)
        with self.errors("written"):
            changed = changes.write_end(self.database, run_id, record.heartbeat, status, stop_time)
        if not changed:  # it was heard of, or came to its end, in the meantime
            self._without_end(run_id)

    def note(self, run_id: int, facts: Mapping[str, Any]) -> None:  # noqa: D102
        session = self.refuse_live(run_id).document.get("session")
        with self.errors("written"):
            noted = changes.write_notes(self.database, run_id, session, facts)
        if not noted:
            self._refuse_continued(run_id)

    def begin_deletion(self, run_id: int) -> None:  # noqa: D102
        from incasem_like.tracking.mongo.starting import note_id

        session = self.refuse_live(run_id).document.get("session")
        with self.errors("written"):
            note_id(self.database, run_id)
            taken = changes.take_from_sight(self.database, run_id, session)
        if not taken:
            self._refuse_continued(run_id)

    def _refuse_continued(self, run_id: int) -> NoReturn:
        """Say that a run went on between two looks at it."""
        self.refuse_live(run_id)
        raise InputError(f"Run {run_id} in {self.description} was just continued: look at it again.")

    def half_deleted(self) -> list[int]:  # noqa: D102
        with self.errors():
            return changes.half_deleted(self.database)

    def read_half_deleted(self, run_id: int) -> RunRecord | None:  # noqa: D102
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id, UNFINISHED: changes.DELETING})
        return None if found is None else RunRecord(self, run_id, self._plain(found))

    def free_record(self, run_id: int) -> Freed:  # noqa: D102
        sessions = self._sessions(run_id)
        with self.errors("written"):
            freed = changes.free_run(self.database, self.files, self.checkpoint_files, run_id)
        return freed + Freed(bytes=self.journals.remove(run_id, sessions))

    @property
    def journals(self) -> Journals:
        """What this machine keeps of the runs in this database."""
        return Journals(self.runs_directory, self.database.name)

    def deliver(self, journal: Journal) -> Outcome:
        """Deliver what is left in the journal of a run that is over; the caller holds its log.

        Raises:
            InputError: The record is too large.
            StoreError: The server does not answer, or refuses; or the journal is damaged.
        """
        from incasem_like.tracking.mongo.undelivered import deliver

        with self.errors("written"):
            return deliver(journal, self.database, self.files, None, self.description)

    def metrics_log(self, run_id: int) -> Path | None:  # noqa: D102
        return self.journals.complete_log(run_id, self._sessions(run_id))

    def _sessions(self, run_id: int) -> list[str]:
        with self.errors():
            found = self.database["runs"].find_one({"_id": run_id}, {"info.sessions": 1}) or {}
        return tokens(found.get("info"))

    def observer(self, *, id_above: int = 0) -> MongoRunObserver:  # noqa: D102
        from incasem_like.tracking.mongo.observer import MongoRunObserver
        from incasem_like.tracking.mongo.omniboard import begin_columns

        begin_columns(self.database, self.kind)
        return MongoRunObserver(self._place(), id_above=id_above)

    def reopen(self, run_id: int, *, after_step: int | Callable[[], int]) -> MongoRunObserver:  # noqa: D102
        from incasem_like.tracking.mongo.observer import MongoRunObserver
        from incasem_like.tracking.recording.sessions import Continuation

        return MongoRunObserver(self._place(), continues=Continuation(run_id, after_step))

    def _place(self) -> Place:
        from incasem_like.tracking.mongo.starting import Place

        return Place(self.database, self.files, self.journals, self.description)

    @contextlib.contextmanager
    def errors(self, doing: str = "read") -> Iterator[None]:
        """Turn errors of the server into ``StoreError``; ``doing`` is what it was to be: ``read`` or ``written``."""
        try:
            yield
        except pymongo.errors.DocumentTooLarge:
            raise InputError(
                f"The record of a run is too large for a document of {self.description} (16 MiB): keep the run as "
                "files."
            ) from None
        except gridfs.errors.NoFile:
            raise StoreError(f"A file of a run is missing in {self.description}: restore it from a backup.") from None
        except pymongo.errors.ConnectionFailure:
            raise no_answer(self.description) from None
        except pymongo.errors.OperationFailure as error:
            raise refusal(self.description, doing, error) from None
