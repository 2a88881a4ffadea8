"""The workers that a call starts: their number is maintained while there is work, ended ones are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.blockwise.launchers import LAUNCHERS, Launcher, Started, WorkerGroup
from incasem_like.blockwise.launchers.base import CONNECTION
from incasem_like.blockwise.worker import BROKEN
from incasem_like.errors import IncasemError, InputError

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a worker that ended without having worked is started again
ATTEMPTS = 3
SECONDS_TO_END_BY_ITSELF = 3.0  # for workers on other machines, once their scheduler's file is removed
SECONDS_TO_OBEY = 1.0
SECONDS_TO_CANCEL = 30.0  # for a queue to accept the command


@dataclass
class Slot:
    """A slot for one worker, refilled whenever it ends.

    Attributes:
        launcher: Starts it.
        index: Its number within its group.
        name: Its name.
        always: Whether it is kept even while no block waits.
        started: The worker, if one was started.
        before: The one that ended last.
        not_before: Time at which the next one may be started.
        barren: Workers that ended one after the other without having worked.
    """

    launcher: Launcher
    index: int
    name: str
    always: bool
    started: Started | None = None
    before: Started | None = None
    not_before: float = 0.0
    barren: int = 0

    def stop(self) -> None:
        """End the worker at once; the next call of ``Fleet.tend`` replaces it."""
        if self.started is not None:
            _end([self.started])

    def exit_status(self, pid: int) -> int | None:
        """Return the exit status of a worker that has ended; None where it is not known.

        Args:
            pid: Its process id, which distinguishes it from its replacement.
        """
        started, deadline = self.started, time.monotonic() + SECONDS_TO_OBEY
        while started is not None and started.process.poll() is None and time.monotonic() < deadline:
            if started.is_worker and started.process.pid != pid:
                break
            time.sleep(0.005)
        for one in (started, self.before):
            if one is not None and one.process.poll() is not None and (not one.is_worker or one.process.pid == pid):
                return one.process.poll()
        return None


class Fleet:
    """The workers of one or more groups.

    Args:
        groups: The groups.
        folder: The job's folder, where workers find their scripts and the scheduler's address.

    Attributes:
        slots: One for each worker, by name.
    """

    def __init__(self, groups: Sequence[WorkerGroup], folder: Path) -> None:
        self.slots: dict[str, Slot] = {}
        self._folder, self._barren = folder, 0
        for position, group in enumerate(groups):
            label = group.launcher if len(groups) == 1 else f"{group.launcher}{position + 1}"
            launcher = LAUNCHERS[group.launcher](group, folder)
            least = launcher.count if group.adaptive is None else group.adaptive.minimum
            for index in range(launcher.count):
                name = f"{label}-{index + 1}"
                self.slots[name] = Slot(launcher, index, name, index < least)

    def tend(self, left: int, waiting: int) -> None:
        """Start missing workers, and restart those that ended.

        Args:
            left: Blocks that are neither done nor failed; no more workers are started.
            waiting: Blocks that no worker has.

        Raises:
            IncasemError: Workers end again and again before they have set up the task.
            InputError: Starting them fails again and again: the queue refuses, set_up fails, or a program is missing.
        """
        now = time.monotonic()
        for slot in list(self.slots.values())[:left]:
            if slot.started is not None and slot.started.process.poll() is not None:
                self._note_end(slot, slot.started, now)
            if slot.started is None and now >= slot.not_before and (slot.always or waiting):
                slot.started = slot.launcher.start(slot.name, slot.index)

    def _note_end(self, slot: Slot, ended: Started, now: float) -> None:
        slot.before, slot.started = ended, None
        slot.barren += 1  # taken back by worked()
        self._barren += 1
        if slot.barren > 1:
            slot.not_before = now + min(FIRST_WAIT * 2**slot.barren, LONGEST_WAIT)
        if self._barren > max(ATTEMPTS, len(self.slots)):
            status, words = ended.process.poll() or 0, ended.last_words()
            kind = IncasemError if status == BROKEN or status < 0 else InputError  # else a queue or the set_up refuses
            raise kind(
                f"Workers end before they can begin, status {status}, the last one saying "
                f'"{words or "nothing"}": mend that and run the same command again; its log is {ended.log}.'
            )

    def worked(self, name: str) -> None:
        """Note that a worker has set up the task or done a block, so that workers are known to start."""
        self._barren = 0
        if (slot := self.slots.get(name)) is not None:
            slot.barren, slot.not_before = -1, 0.0

    def last_words(self) -> str:
        """Return the last message of some worker, or of the queue about it."""
        said = (slot.started.last_words() for slot in self.slots.values() if slot.started is not None)
        return next(filter(None, said), "")

    def announce(self, scheduler: Mapping[str, Any]) -> None:
        """Write the scheduler's address and key (JSON-serializable) to the file that workers look into."""
        (self._folder / CONNECTION).write_text(json.dumps(scheduler))

    def end(self, *, gently: bool = False) -> None:
        """End all workers.

        Args:
            gently: Give workers on other machines a moment to end by themselves.
        """
        (self._folder / CONNECTION).unlink(missing_ok=True)
        started = [slot.started for slot in self.slots.values() if slot.started is not None]
        deadline = time.monotonic() + (SECONDS_TO_END_BY_ITSELF if gently else 0.0)
        for one in started:
            while not one.is_worker and one.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        _end(started)
        for left in ("at", "scratch"):
            shutil.rmtree(self._folder / left, ignore_errors=True)


@contextlib.contextmanager
def started_fleet(groups: Sequence[WorkerGroup], folder: Path, blocks: int) -> Iterator[Fleet]:
    """Start workers, which load their modules while this process starts their scheduler; end them all at the end.

    Args:
        groups: The groups.
        folder: The job's folder, accessible to its owner only.
        blocks: Blocks to do; no more workers are started.

    Raises:
        InputError: The file system does not keep permissions, so that others could read the workers' key.
    """
    connection = folder / CONNECTION
    connection.unlink(missing_ok=True)
    descriptor = os.open(connection, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            connection.unlink()
            raise InputError(
                f"{folder} is on a file system where others can read the workers' key: "
                "set INCASEM_JOBS to a folder on one that keeps permissions."
            )
    finally:
        os.close(descriptor)
    fleet = Fleet(groups, folder)
    try:
        fleet.tend(blocks, blocks)
        yield fleet
    finally:
        fleet.end()


def _end(started: Sequence[Started]) -> None:
    """End workers together; those that hang are killed."""
    alive = [one for one in started if one.process.poll() is None]
    deadline = time.monotonic() + SECONDS_TO_CANCEL
    for asked in [asked for one in alive if (asked := one.stop()) is not None]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.wait(max(0.0, deadline - time.monotonic()))
    deadline = time.monotonic() + SECONDS_TO_OBEY
    for one in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(max(0.0, deadline - time.monotonic()))
        one.send(signal.SIGKILL)
        one.process.wait()
