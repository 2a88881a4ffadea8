"""The workers that a call starts: kept at their number while there is work, replaced when they end."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from incasem_like.blockwise.launchers import LAUNCHERS, Launcher, Place, Started, WorkerGroup
from incasem_like.errors import IncasemError

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a worker that ended without having worked is started again
ATTEMPTS = 3
SECONDS_TO_END, SECONDS_TO_END_ELSEWHERE = 10.0, 2.0
SECONDS_TO_HEED = 1.0


@dataclass
class _Slot:
    """The place of one worker, filled again and again."""

    launcher: Launcher
    index: int
    name: str
    started: Started | None = None
    not_before: float = 0.0
    barren: int = 0
    taken: bool = False  # by a worker that another call has started


class Fleet:
    """Workers of some groups.

    Args:
        groups: Which.
        place: Where workers find what they need.
        wait: Seconds that workers of a scheduler that was killed have to come back, before others are started.
    """

    def __init__(self, groups: Sequence[WorkerGroup], place: Place, wait: float = 0.0) -> None:
        first = time.monotonic() + wait
        self._slots: list[_Slot] = []
        self._barren = 0
        for position, group in enumerate(groups):
            label = group.launcher if len(groups) == 1 else f"{group.launcher}{position + 1}"
            launcher = LAUNCHERS[group.launcher](group, place, label)
            names = [f"{label}-{number + 1}" for number in range(launcher.count)]
            self._slots += [_Slot(launcher, index, name, not_before=first) for index, name in enumerate(names)]

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def calls_back(self) -> bool:
        """Whether workers connect to a port of the scheduler."""
        return any(slot.launcher.calls_back for slot in self._slots)

    def tend(self, wanted: int) -> list[Started]:
        """Start workers up to a number, those that ended again.

        Returns:
            Those just started.

        Raises:
            IncasemError: Workers end again and again before they have set up the task.
            InputError: The program that starts them is not there.
        """
        now, fresh = time.monotonic(), []
        for slot in self._slots[:wanted]:
            if slot.started is not None and slot.started.poll() is not None:
                self._ended(slot, now)
            if slot.started is None and not slot.taken and now >= slot.not_before:
                slot.started = slot.launcher.start(slot.name, slot.index)
                fresh.append(slot.started)
        return fresh

    def _ended(self, slot: _Slot, now: float) -> None:
        ended, slot.started = slot.started, None
        slot.barren += 1  # taken back by worked()
        self._barren += 1
        if slot.barren > 1:
            slot.not_before = now + min(FIRST_WAIT * 2**slot.barren, LONGEST_WAIT)
        if ended is not None and self._barren > max(ATTEMPTS, len(self._slots)):
            words = ended.last_words()
            raise IncasemError(
                f"Workers end before they can begin, status {ended.poll()}, the last one saying "
                f'"{words or "nothing"}": mend that and run the same command again; its log is {ended.log}.'
            )

    def came(self, name: str) -> None:
        """Note that a worker has connected; where it is none of this call's, its place is not filled again."""
        slot = self._find(name)
        if slot is not None and slot.started is None:
            slot.taken = True

    def went(self, name: str) -> None:
        """Note that a worker is gone, so that its place can be filled."""
        slot = self._find(name)
        if slot is not None:
            slot.taken = False

    def worked(self, name: str) -> None:
        """Note that a worker has set up the task or done a block: workers are all right then."""
        self._barren = 0
        slot = self._find(name)
        if slot is not None:
            slot.barren = -1

    def exit_status(self, name: str, seconds: float) -> int | None:
        """Return how a worker that has gone ended, waiting a little; None where that cannot be told."""
        slot = self._find(name)
        if slot is None or slot.started is None:
            return None
        deadline = time.monotonic() + seconds
        while slot.started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        return slot.started.poll()

    def last_words(self, name: str) -> str:
        """Return what a worker said last."""
        slot = self._find(name)
        return slot.started.last_words() if slot is not None and slot.started is not None else ""

    def stop(self, name: str) -> None:
        """End a worker at once; another one takes its place when the fleet is tended."""
        slot = self._find(name)
        if slot is not None and slot.started is not None:
            _end([slot.started])

    def end(self, told: Collection[str]) -> None:
        """End all workers.

        Args:
            told: Names of those that were told to stop, which may take some seconds for it.
        """
        started = [slot.started for slot in self._slots if slot.started is not None]
        now = time.monotonic()
        for one in started:
            # What stands for a worker elsewhere needs no time: the worker itself has nothing left to lose.
            deadline = now + (SECONDS_TO_END if one.link is not None else SECONDS_TO_END_ELSEWHERE)
            while one.name in told and one.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
        _end(started)

    def _find(self, name: str) -> _Slot | None:
        return next((slot for slot in self._slots if slot.name == name), None)


def _end(started: Sequence[Started]) -> None:
    """End workers together: those that do not heed it, since they hang, are killed."""
    alive = [one for one in started if one.poll() is None]
    for one in alive:
        one.stop()
    deadline = time.monotonic() + SECONDS_TO_HEED
    for one in alive:
        while one.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        one.kill()
        one.process.wait()
