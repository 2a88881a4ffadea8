"""Giving workers a scheduler: the token, the socket, the file that tells other machines, and the task as a message."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pickle
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from incasem_like.blockwise.channel import Message
from incasem_like.blockwise.check_workers import cannot_listen
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.launchers import Place
from incasem_like.blockwise.queue import BlockQueue, FailedBlock
from incasem_like.blockwise.scheduler import Callbacks, Patience, Scheduler
from incasem_like.blockwise.stages import IN_FLIGHT
from incasem_like.blockwise.task import BlockTask
from incasem_like.blockwise.workers_file import LOOPBACK, SchedulerSection, Workers
from incasem_like.errors import IncasemError, InputError

SECONDS_BETWEEN_SIGNS = 5.0
SECONDS_TO_SET_UP = 600.0
SECONDS_TO_COME_BACK = 3.0
EVERYWHERE = ("0.0.0.0", "::")


class Listener(Protocol):
    """Who is told what comes of blocks; see ``Callbacks``."""

    def done(self, numbers: list[int]) -> None:
        """Note finished blocks."""

    def failed(self, block: FailedBlock) -> None:
        """Note a block that failed for good."""

    def look(self, workers: Any) -> None:
        """Look at what workers do."""


def run_on_workers(task: BlockTask, queue: BlockQueue, workers: Workers, folder: Path, tell: Listener) -> None:
    """Run the blocks of a queue on workers.

    Args:
        task: What the blocks are of.
        queue: What is to be done.
        workers: Which, and how they find this process.
        folder: Of the job, its owner's alone.
        tell: Who is told what comes of blocks.

    Raises:
        InputError: The address cannot be listened on, or a launcher's program is not there.
        DiskFullError: A worker found no space left.
        IncasemError: No worker can work, or the task cannot be sent to one.
    """
    settings = workers.scheduler
    token = secrets.token_bytes(32)
    place = Place(folder, token, settings.reconnect)
    # What a scheduler that was killed has left, and with it perhaps workers that look for the next one.
    left = place.connection.exists()
    fleet = Fleet(workers.groups, place, SECONDS_TO_COME_BACK if left else 0.0)
    limit = settings.block_time_limit or task.time_limit
    patience = Patience(limit, max(limit, SECONDS_TO_SET_UP), settings.silence)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listening(settings, place)) if fleet.calls_back else None
        callbacks = Callbacks(tell.done, tell.failed, tell.look)
        in_flight = IN_FLIGHT if task.staged else 1
        message = _task_message(task, patience)
        Scheduler(queue, message, fleet, listener, token, patience, callbacks, in_flight).run()


@contextlib.contextmanager
def _listening(settings: SchedulerSection, place: Place) -> Iterator[socket.socket]:
    """Listen where the workers file says, and write down where, for the owner's workers alone to read."""
    address = settings.listen or LOOPBACK
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, settings.port), family=family, backlog=256)
    except OSError as error:
        raise cannot_listen(address, settings.port, error) from error
    advertised = settings.advertise or (socket.gethostname() if address in EVERYWHERE else address)
    about = {"host": advertised, "port": listener.getsockname()[1], "token": place.token.hex()}
    try:
        _write_private(place.connection, json.dumps(about))
        with listener:
            yield listener
    finally:
        place.connection.unlink(missing_ok=True)


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else may read, in one step.

    Raises:
        InputError: The file system lets others read it all the same.
    """
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            partial.unlink()
            raise InputError(
                f"{path.parent} is on a file system where others can read the workers' token: "
                "set INCASEM_JOBS to a folder on one that keeps permissions."
            )
        file.write(text)
    partial.replace(path)


def _task_message(task: BlockTask, patience: Patience) -> Message:
    try:
        payload = pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise IncasemError(
            f"The task {task.name} cannot be sent to workers ({error}): its functions must stand at the top level of "
            "a module, its parameters be plain values."
        ) from error
    fingerprint = json.dumps([str(task.output.address), task.fingerprint()], sort_keys=True)
    return {
        "type": "task",
        "task": hashlib.sha256(fingerprint.encode()).hexdigest(),
        "payload": base64.b64encode(payload).decode(),
        "preparation": _preparation(payload),
        "interval": min(SECONDS_BETWEEN_SIGNS, patience.silence / 4),
        "silence": patience.silence,
        "time_limit": patience.block,
        "set_up_limit": patience.set_up,
    }


def _preparation(payload: bytes) -> dict[str, Any]:
    """Say what a worker must know of this process to find the task's function, in ``multiprocessing.spawn``'s words."""
    known: dict[str, Any] = {"sys_path": [path or os.getcwd() for path in sys.path], "dir": os.getcwd()}
    if b"__main__" in payload:  # a function of the script itself, which workers then have to import too
        main = sys.modules["__main__"]
        name = getattr(getattr(main, "__spec__", None), "name", None)
        if name is not None:
            known["init_main_from_name"] = name
        elif getattr(main, "__file__", None):
            known["init_main_from_path"] = os.path.abspath(str(main.__file__))
    return known
