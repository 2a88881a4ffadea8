"""Copying checkpoints into MongoDB, during a run and after it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from incasem_like.errors import CheckpointError, StoreError
from incasem_like.terminal import Progress
from incasem_like.tracking.liveness import Heartbeat
from incasem_like.tracking.model.cache import transfer_progress
from incasem_like.tracking.model.checkpoints import CheckpointRecord, StorePolicy, TrackedFile
from incasem_like.tracking.stores.base import RunStore
from incasem_like.tracking.stores.records import RunRecord

if TYPE_CHECKING:
    from incasem_like.tracking.stores.gridfs import CheckpointFiles

log = logging.getLogger("incasem_like.tracking")
SECONDS_BETWEEN_ATTEMPTS = 10.0
SECONDS_WITHOUT_A_WORD = 2.0
SECONDS_WITHOUT_PROGRESS = 20.0


def missing_uploads(record: RunRecord) -> list[CheckpointRecord]:
    """List the checkpoints that the run's store should hold by ``tracking.store_checkpoints`` and does not."""
    files, wanted = record.store.checkpoint_files, StorePolicy.from_config(record.config).wanted(record.checkpoints)
    if files is None or not wanted:
        return []
    stored = {copy.sha256 for copy in files.of_run(record.id)}
    return [one for one in wanted if any(file.sha256 not in stored for file in one.files)]


def runs_lacking_uploads(store: RunStore) -> list[RunRecord]:
    """Find the runs that are over and whose missing checkpoints this machine has: ``upload_missing`` helps them."""
    files = store.checkpoint_files
    if files is None:
        return []
    stored = {(copy.run_id, copy.sha256) for copy in files.of_run(None)}
    found = []
    for run in store.summaries():
        missing = [one for one in run.checkpoints if (run.id, one.sha256) not in stored and run.status != "RUNNING"]
        if any((store.runs_directory / one.path).is_file() for one in missing):
            record = store.get(run.id)
            if any(all(file.seems_here() for file in one.files) for one in missing_uploads(record)):
                found.append(record)
    return found


def upload_missing(record: RunRecord) -> list[CheckpointRecord]:
    """Finish what a run could not upload before it ended; return the checkpoints that were uploaded.

    An active run does so itself and is left alone. Copies that better ones replace are then taken out. What this
    machine does not have the files of stays missing.
    """
    files, wanted = record.store.checkpoint_files, StorePolicy.from_config(record.config).wanted(record.checkpoints)
    if files is None or not wanted or record.status == "RUNNING":
        return []
    if record.seems_dead and record.store.heard_of([record.id]):
        return []  # it lives, by a clock that is behind, and has the say over its copies
    missing = missing_uploads(record)
    paths = {file.sha256: file.here() for one in missing for file in one.files}
    here = [one for one in missing if all(paths[file.sha256] for file in one.files)]
    with files.as_store_errors():
        for checkpoint, file in ((one, file) for one in here for file in one.files):
            entry, path = checkpoint.entry if file is checkpoint else None, paths[file.sha256] or file.path
            with transfer_progress(f"Uploading {file.name}", file.bytes) as advance:
                files.upload(path, record.id, file.sha256, entry, advance)
        if len(here) == len(missing):
            _remove_others(files, record.id, wanted)
    return here


def try_upload(record: RunRecord) -> None:
    """Upload what a run that was just written lacks in its store; warn where that fails."""
    try:
        upload_missing(record)
    except StoreError as error:
        log.warning("Checkpoints of run %s are on this machine only ('runs sync' uploads them): %s", record.id, error)


def _remove_others(files: CheckpointFiles, run_id: int, wanted: Sequence[CheckpointRecord]) -> None:
    """Take out what the database has of a run beyond what it should hold."""
    named = {file.sha256 for one in wanted for file in one.files}
    files.remove([copy.id for copy in files.of_run(run_id) if copy.sha256 not in named])
    files.remove_partial(run_id)


class CheckpointUploader:
    """Makes the database hold those of a run's checkpoints that the policy names, and no others.

    The run only says which checkpoints it has now; that never waits. Uploads begin with the newest. One that has begun
    is finished even when a newer one has come meanwhile, so that a slow line brings something home; those between are
    passed over. What the database has beyond the policy's choice is taken out once all of that choice is in.
    """

    def __init__(self, files: CheckpointFiles, run_id: int, policy: StorePolicy) -> None:
        self._files, self._run_id, self._policy = files, run_id, policy
        self._lock = threading.Lock()
        self._wanted: list[CheckpointRecord] = []
        self._inside: set[str] = set()
        self._hopeless: set[str] = set()
        self._sent = 0
        self._problem = ""
        self._session: str | None = None
        self._finishing = self._stopping = self._lost = False
        self._is_settled = threading.Event()
        self._is_settled.set()
        self._courier = Heartbeat(self._synchronize, SECONDS_BETWEEN_ATTEMPTS, "checkpoint-upload")

    def keep(self, checkpoints: Sequence[CheckpointRecord]) -> None:
        """Set the checkpoints that the run has now, all safe on disk; return at once."""
        with self._lock:
            self._wanted = self._policy.wanted(checkpoints)
            self._is_settled.clear()
        if self._courier.ident is None:
            self._courier.start()
        self._courier.ask()

    def finish(self, seconds: float) -> list[CheckpointRecord]:
        """Wait until the database holds what it should, at most some seconds; return the checkpoints still missing.

        A database that takes nothing for a while, and ctrl-C, end the wait sooner. The thread ends. Nothing is missing
        of a run that another process has now.
        """
        deadline = time.monotonic() + seconds
        self._finishing = True
        self._courier.ask()
        try:
            if not self._is_settled.wait(min(SECONDS_WITHOUT_A_WORD, seconds)):
                self._watch(deadline)
        except KeyboardInterrupt:
            log.warning("The upload of checkpoints was interrupted.")
        self._stopping = True
        if self._courier.ident is not None:
            self._courier.stop(seconds=0.0)
        with self._lock:
            missing = [one for one in self._wanted if any(file.sha256 not in self._inside for file in one.files)]
        return [] if self._lost else missing

    def _watch(self, deadline: float) -> None:
        """Show how far it has come until all is in, nothing moves any more, or the time is up."""

        def bytes_left() -> int:
            with self._lock:
                missing = {file.sha256: file.bytes for one in self._wanted for file in one.files}
                return max(sum(size for key, size in missing.items() if key not in self._inside) - self._sent, 0)

        left, moved = bytes_left(), time.monotonic()
        with Progress(f"Uploading checkpoints to {self._files.description}", left, "B") as progress:
            while not self._is_settled.wait(0.5):
                self._courier.ask()  # for another attempt after an error
                before, left = left, bytes_left()
                now = time.monotonic()
                moved = now if left != before else moved
                progress.advance(before - left)
                if now > deadline or now - moved > SECONDS_WITHOUT_PROGRESS:
                    return
            progress.advance(left)

    def _synchronize(self) -> None:
        """Upload what is missing, then take out what is too much; stop early when the run's wishes have changed."""
        if self._stopping or self._is_settled.is_set():
            return
        with self._lock:
            wanted = self._wanted
        try:
            with self._files.on_own_connection() as files:
                if self._has_lost_the_run(files):
                    return
                stored = {copy.sha256 for copy in files.of_run(self._run_id)}
                with self._lock:
                    self._inside = stored
                for record in wanted:
                    for file in record.files:
                        if file.sha256 not in self._inside | self._hopeless:
                            self._upload(files, record, file)
                        if self._stopping or self._wanted is not wanted:
                            return
                named = {file.sha256 for record in wanted for file in record.files}
                if not named & self._hopeless and not self._has_lost_the_run(files):
                    _remove_others(files, self._run_id, wanted)
        except Exception as error:  # whatever it is, the training goes on
            reason = self._files.reason_of(error, "them")
            if reason != self._problem and not self._stopping:
                self._problem = reason
                message = "Checkpoints wait to be uploaded, the training goes on: %s %s."
                log.warning(message, self._files.description, reason)
            return
        if self._problem:
            log.warning("%s takes checkpoints again.", self._files.description)
        self._problem = ""
        with self._lock:
            if self._wanted is wanted:
                self._is_settled.set()

    def _has_lost_the_run(self, files: CheckpointFiles) -> bool:
        """Return whether another process resumed the run, which then decides about its checkpoints."""
        session = files.session(self._run_id)
        if session is not None and self._session not in (None, session):
            self._lost = self._stopping = True
            self._is_settled.set()
        self._session = self._session or session
        return self._lost

    def _upload(self, files: CheckpointFiles, record: CheckpointRecord, file: TrackedFile) -> None:
        """Upload one file; one that cannot be read, or is another by now, is said once and left out."""

        def proceed(count: int) -> bool:
            with self._lock:
                self._sent += count
                return not self._stopping and (not self._finishing or record in self._wanted)

        entry, self._sent = record.entry if file is record else None, 0
        try:
            is_in = files.upload(file.path, self._run_id, file.sha256, entry, proceed)
        except (CheckpointError, OSError) as error:
            with self._lock:
                is_wanted = record in self._wanted
            if is_wanted:
                self._hopeless.add(file.sha256)
                log.warning("A checkpoint does not go into %s: %s", self._files.description, error)
            return
        with self._lock:
            self._sent = 0
            if is_in:
                self._inside.add(file.sha256)
