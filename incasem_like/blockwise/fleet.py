"""The workers that a call starts: their number is maintained while there is work, ended ones are replaced."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from incasem_like.blockwise.launchers import LAUNCHERS, Launcher, Place, Started, WorkerGroup
from incasem_like.blockwise.worker_process import BROKEN
from incasem_like.errors import IncasemError, InputError

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a worker that ended without having worked is started again
ATTEMPTS = 3
SECONDS_TO_END_BY_ITSELF = 3.0  # for workers on other machines, once their scheduler's file is removed
SECONDS_TO_OBEY = 1.0
SECONDS_TO_CANCEL = 30.0  # for a queue to accept the command


@dataclass
class _Slot:
    """A slot for one worker, refilled whenever it ends."""

    launcher: Launcher
    index: int
    name: str
    always: bool  # kept even while no block waits
    started: Started | None = None
    before: Started | None = None  # the one that ended last
    not_before: float = 0.0
    barren: int = 0


class Fleet:
    """The workers of one or more groups.

    Args:
        groups: The groups.
        place: The job's folder, where workers find their scripts and the scheduler's address.
        wait: Seconds to wait for workers of a killed scheduler to reconnect before others are started.
    """

    def __init__(self, groups: Sequence[WorkerGroup], place: Place, wait: float = 0.0) -> None:
        first = time.monotonic() + wait
        self._slots: list[_Slot] = []
        self._barren = 0
        for position, group in enumerate(groups):
            label = group.launcher if len(groups) == 1 else f"{group.launcher}{position + 1}"
            launcher = LAUNCHERS[group.launcher](group, place, label)
            least = launcher.count if group.minimum is None else group.minimum
            self._slots += [
                _Slot(launcher, index, f"{label}-{index + 1}", index < least, not_before=first)
                for index in range(launcher.count)
            ]

    def tend(self, left: int, waiting: int, connected: Collection[str]) -> None:
        """Start missing workers, and restart those that ended.

        Args:
            left: Blocks that are neither done nor failed; no more workers are started.
            waiting: Blocks that no worker has.
            connected: Names of the connected workers, perhaps started by an earlier call.

        Raises:
            IncasemError: Workers end again and again before they have set up the task.
            InputError: Starting them fails again and again: the queue refuses, set_up fails, or a program is missing.
        """
        now = time.monotonic()
        for slot in self._slots[:left]:
            if slot.started is not None and slot.started.poll() is not None:
                self._note_end(slot, now)
            free = slot.started is None and slot.name not in connected
            if free and now >= slot.not_before and (slot.always or waiting):
                slot.started = slot.launcher.start(slot.name, slot.index)

    def _note_end(self, slot: _Slot, now: float) -> None:
        ended, slot.started = slot.started, None
        slot.before = ended
        slot.barren += 1  # taken back by worked()
        self._barren += 1
        if slot.barren > 1:
            slot.not_before = now + min(FIRST_WAIT * 2**slot.barren, LONGEST_WAIT)
        if ended is not None and self._barren > max(ATTEMPTS, len(self._slots)):
            status, words = ended.poll() or 0, ended.last_words()
            kind = IncasemError if status == BROKEN or status < 0 else InputError  # else a queue or the set_up refuses
            raise kind(
                f"Workers end before they can begin, status {status}, the last one saying "
                f'"{words or "nothing"}": mend that and run the same command again; its log is {ended.log}.'
            )

    def worked(self, name: str) -> None:
        """Note that a worker has set up the task or done a block, so that workers are known to start."""
        self._barren = 0
        slot = self._find(name)
        if slot is not None:
            slot.barren, slot.not_before = -1, 0.0

    def is_local(self, name: str) -> bool:
        """Return whether a worker is a child of this process."""
        slot = self._find(name)
        return slot is not None and slot.launcher.local

    def may_leave(self, name: str) -> bool:
        """Return whether a worker may end when no block waits."""
        slot = self._find(name)
        return slot is not None and not slot.always

    def exit_status(self, name: str, pid: int) -> int | None:
        """Return the exit status of a worker that has ended; None where it is not known.

        Args:
            name: Name of the worker.
            pid: Its process id, which distinguishes it from its replacement.
        """
        slot = self._find(name)
        if slot is None:
            return None
        started = slot.started
        deadline = time.monotonic() + SECONDS_TO_OBEY
        while started is not None and started.poll() is None and time.monotonic() < deadline:
            if started.is_worker and started.process.pid != pid:
                break
            time.sleep(0.005)
        for one in (started, slot.before):
            if one is not None and one.poll() is not None and (not one.is_worker or one.process.pid == pid):
                return one.poll()
        return None

    def last_words(self) -> str:
        """Return the last message of some worker, or of the queue about it."""
        said = (slot.started.last_words() for slot in self._slots if slot.started is not None)
        return next(filter(None, said), "")

    def stop(self, name: str) -> None:
        """End a worker at once; the next call of ``tend`` replaces it."""
        slot = self._find(name)
        if slot is not None and slot.started is not None:
            _end([slot.started])

    def end(self, *, gently: bool) -> None:
        """End all workers.

        Args:
            gently: Give workers on other machines a moment to end by themselves.
        """
        started = [slot.started for slot in self._slots if slot.started is not None]
        deadline = time.monotonic() + (SECONDS_TO_END_BY_ITSELF if gently else 0.0)
        for one in started:
            while not one.is_worker and one.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        _end(started)

    def _find(self, name: str) -> _Slot | None:
        return next((slot for slot in self._slots if slot.name == name), None)


def _end(started: Sequence[Started]) -> None:
    """End workers together; those that hang are killed."""
    alive = [one for one in started if one.poll() is None]
    asking = [asked for one in alive if (asked := one.stop()) is not None]
    deadline = time.monotonic() + SECONDS_TO_CANCEL
    for asked in asking:
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.wait(max(0.0, deadline - time.monotonic()))
    deadline = time.monotonic() + SECONDS_TO_OBEY
    for one in alive:
        while one.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        one.kill()
        one.process.wait()
