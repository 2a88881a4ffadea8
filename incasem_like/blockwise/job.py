"""The record of a blockwise job, readable while it runs and afterwards: progress, failed blocks, process.

One folder per output under ``$INCASEM_JOBS``, else ``jobs`` in the folder of runs, readable by its owner only. It holds
``job.json``, the workers' logs and, while workers on other machines may join, how to reach the scheduler. Finished
and failed blocks are in the log beside the output; a job folder may be deleted without loss.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from incasem_like.blockwise.done_log import read_log
from incasem_like.blockwise.task import WorkTask
from incasem_like.config.locations import default_runs_directory
from incasem_like.disk import exclusive, write_whole
from incasem_like.errors import InputError
from incasem_like.terminal import shell_command
from incasem_like.tracking.liveness import is_alive
from incasem_like.tracking.recording.surroundings import describe_process
from incasem_like.volumes.provenance import OVERWRITE, command_line

SECONDS_BETWEEN_UPDATES = 1.0
DAYS_KEPT = 30
RECORD, CANCEL = "job.json", "cancel"
LAST_BYTES = 4000


@dataclass(frozen=True)
class Job:
    """A blockwise job, read from its record.

    Attributes:
        id: Short name, the same for every call that fills the same output.
        folder: Folder of the record and the workers' logs.
        name: Name of the task.
        output: Folder of the (first) output.
        state: ``running``, ``finished``, ``failed`` (some blocks, or all for one reason), ``interrupted``,
            ``cancelled``, or ``died`` if it is recorded as running but its process has ended.
        total, done, failed: Blocks; ``done`` counts those of earlier calls.
        rate: Blocks per second of this call.
        seconds_left: Time remaining at that rate; None where it is not known.
        started, updated: When the call began and when its record was last updated, UTC.
        host: Machine and process of the scheduler, as tracked runs describe theirs.
        command: The command that resumes it, run in ``directory``.
        directory: Where it was started.
        error: Why it failed, as a sentence; empty otherwise.
        workers: For each connected worker: ``name``, ``host``, ``pid``, ``block`` (number or None), ``seconds`` on it.
        dashboard: Address of Dask's pages on the workers, on that machine; empty where they are not shown.
    """

    id: str
    folder: Path
    name: str
    output: Path
    state: str
    total: int
    done: int
    failed: int
    rate: float
    seconds_left: float | None
    started: datetime
    updated: datetime
    host: Mapping[str, Any]
    command: str
    directory: Path
    error: str
    workers: Sequence[Mapping[str, Any]]
    dashboard: str = ""

    def failed_blocks(self) -> dict[int, dict[str, Any]]:
        """Read the failed blocks with their errors; keys as in ``LogContent``."""
        log = read_log(self.output)
        return {} if log is None else dict(log.failed)

    def last_words(self) -> dict[str, str]:
        """Return the last message of workers on other machines, or of the queue about them, by worker name."""
        # For a queue's worker the log has the queue's messages, the other file the worker's own, once there are any.
        files = [path for kind in ("*.log", "*.out") for path in sorted(self.folder.glob(kind))]
        said = {path.stem: words for path in files if (words := last_words(path))}
        return dict(sorted(said.items()))

    def cancel(self) -> None:
        """Ask the scheduler to stop, on whatever machine it runs; it stops within seconds, finished blocks are kept.

        Raises:
            InputError: The job is not running.
        """
        if self.state != "running":
            state = "has died" if self.state == "died" else f"is {self.state}"
            raise InputError(f"Job {self.id} ({self.name}) {state}, so there is nothing to cancel.")
        (self.folder / CANCEL).touch()


def jobs_directory() -> Path:
    """Return the folder of job records: ``$INCASEM_JOBS``, else ``jobs`` in the folder of runs."""
    named = os.environ.get("INCASEM_JOBS")
    return Path(named).expanduser().absolute() if named else default_runs_directory() / "jobs"


def list_jobs(directory: Path | None = None) -> list[Job]:
    """Read all records, the latest first; anything that is not a complete record is skipped."""
    jobs = [read_job(path.parent) for path in sorted((directory or jobs_directory()).glob(f"*/{RECORD}"))]
    return sorted((job for job in jobs if job is not None), key=lambda job: job.started, reverse=True)


def read_job(folder: Path) -> Job | None:
    """Read one record; None where there is none."""
    try:
        known = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        started, updated = (datetime.fromisoformat(known[key]) for key in ("started", "updated"))
        if known["state"] == "running" and not is_alive(known["host"], updated, started):
            known["state"] = "died"
            log = read_log(known["output"])  # knows what was done since the record was last written
            if log is not None:
                known.update(done=len(log.done), failed=len(log.failed), seconds_left=None)
        paths = {"folder": folder, "output": Path(known["output"]), "directory": Path(known["directory"])}
        return Job(**{**known, **paths, "started": started, "updated": updated})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def last_words(path: Path) -> str:
    """Return the last distinct lines of a log, joined into one; empty if there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    different = list(dict.fromkeys(line.strip() for line in reversed(lines)))  # each attempt prints the same
    return " / ".join(reversed(different[:3]))


class JobRecord:
    """Writes the record of one call; a failure to write it never stops the work.

    Attributes:
        id: Name of the job.
        folder: Folder of this job.
        dashboard: Address of Dask's pages, or nothing.
    """

    def __init__(self, task: WorkTask, done: int, command: str | None = None) -> None:
        output = os.path.abspath(task.folder)
        self.id = hashlib.sha256(os.path.realpath(output).encode()).hexdigest()[:10]
        self.folder = private_folder(self.id)
        self.dashboard = ""
        self._begun, self._written, self._first = time.monotonic(), 0.0, done
        # Items that are files of their own keep --overwrite, since those not reached yet must still be replaced.
        words = shlex.split(command or command_line({} if task.grid is None else OVERWRITE))[1:]  # after "python"
        now = datetime.now(UTC).isoformat()
        self._known: dict[str, Any] = {
            "id": self.id, "name": task.name, "output": output, "state": "running", "total": len(task), "done": done,
            "failed": 0, "rate": 0.0, "seconds_left": None, "started": now, "updated": now,
            "host": {"hostname": socket.gethostname(), **describe_process()},
            "command": shell_command(sys.executable, *words), "directory": os.getcwd(), "error": "", "workers": [],
        }  # fmt: skip
        for left in (self.folder / CANCEL, *self.folder.glob("*.log"), *self.folder.glob("*.out")):
            left.unlink(missing_ok=True)
        self._write()

    @property
    def cancelled(self) -> bool:
        """Whether cancellation was requested."""
        return (self.folder / CANCEL).exists()

    def start_clock(self) -> None:
        """Measure the rate from now on, leaving out the start of workers."""
        self._begun = time.monotonic()

    def update(self, done: int, failed: int, workers: Sequence[Mapping[str, Any]] = ()) -> bool:
        """Note the progress of the work; write it, and return True, if that is due."""
        seconds = time.monotonic() - self._begun
        rate = (done - self._first) / max(seconds, 1e-9)
        left = self._known["total"] - done - failed
        self._known.update(
            done=done, failed=failed, workers=list(workers), rate=rate, seconds_left=left / rate if rate else None,
            dashboard=self.dashboard,
        )  # fmt: skip
        if is_due := time.monotonic() - self._written > SECONDS_BETWEEN_UPDATES:
            self._write()
        return is_due

    def end(self, state: str, error: str = "") -> None:
        """Write how it ended."""
        self._known.update(state=state, error=error, workers=[], seconds_left=None, dashboard="")
        self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        self._known["updated"] = datetime.now(UTC).isoformat()
        with contextlib.suppress(OSError):  # usually a full disk; the work itself reports that if it is affected
            write_whole(self.folder / RECORD, lambda file: file.write(json.dumps(self._known).encode()))


def private_folder(name: str) -> Path:
    """Make a folder that only its owner can read among the job records, else among the temporary files."""
    for directory in (jobs_directory(), temporary := Path(tempfile.gettempdir()) / f"incasem-jobs-{os.getuid()}"):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            use_folder(directory / name, RECORD)
            (directory / name).chmod(0o700)  # fails if another user owns the folder
        except OSError:
            if directory == temporary:
                raise
        else:
            break
    return directory / name


def use_folder(folder: Path, marker: str) -> None:
    """Make a folder, and remove those beside it that have not been used for a long time.

    Both happen under one lock, so that no folder is removed that another process has just begun to use.

    Args:
        folder: The folder.
        marker: Name of the file in such folders whose time of change says when one was used.
    """
    with exclusive(folder.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a new one
            os.utime(folder / marker)
        for file in folder.parent.glob(f"*/{marker}"):
            with contextlib.suppress(FileNotFoundError):  # finished, and removed
                if time.time() - file.stat().st_mtime > DAYS_KEPT * 24 * 3600:
                    shutil.rmtree(file.parent, ignore_errors=True)
