"""Heartbeats of runs, and whether the process of a run is alive: by its machine, boot and start, or its heartbeat."""

from __future__ import annotations

import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil

from incasem_like.tracking.values import utc_moment

log = logging.getLogger("incasem_like.tracking")
SECONDS_BETWEEN_HEARTBEATS = 10.0
_SECONDS_BETWEEN_LOOKS = 0.5
OLDEST_HEARTBEAT = timedelta(minutes=5)
_TICKS_AMONG_THE_FIELDS = 19  # of /proc/PID/stat, counted from the state, which follows the name in parentheses
# Where ticks are unknown: the time of a start is reckoned from that of the boot, which the kernel adjusts
_SECONDS_STARTS_MAY_DIFFER = 2.0
SECONDS_TO_WATCH = 2.5 * SECONDS_BETWEEN_HEARTBEATS  # a beat may be late on a busy machine, and slow to arrive
_LOOKS = 10
Key = TypeVar("Key")


def is_alive(
    host: Mapping[str, Any], heartbeat: datetime | None, start: datetime | None, now: datetime | None = None
) -> bool:
    """Return whether the process that writes a run is still there.

    On the machine and in the pid namespace of the run the process itself is looked for, so that the answer is right at
    once and stays right while the server is away. A process of a boot before this one is dead. Of another machine or
    container only the heartbeat is known: it must be younger than five minutes. That compares the clocks of two
    machines, which is good enough to list runs by; before a run is taken or closed, ``watch`` makes sure. Times without
    a time zone are UTC; ``start`` counts for a run that has no heartbeat yet.
    """
    found, heard = find_process(host, heartbeat, start), utc_moment(heartbeat) or utc_moment(start)
    if found is not None:
        return found
    return heard is not None and (now or datetime.now(UTC)) - heard < OLDEST_HEARTBEAT


def find_process(host: Mapping[str, Any], heartbeat: datetime | None, start: datetime | None) -> bool | None:
    """Look for the process that writes a run; None where it would be out of sight: another machine or namespace."""
    if not isinstance(host.get("pid"), int) or host.get("hostname") != socket.gethostname():
        return None
    boot, heard = boot_id(), utc_moment(heartbeat) or utc_moment(start)
    if boot == host.get("boot_id"):
        if host.get("pid_namespace", pid_namespace()) != pid_namespace():
            return None
        started, ticks = process_start(host["pid"]), start_ticks(host["pid"])
        if started is not None and ticks is not None and isinstance(host.get("process_ticks"), int):
            return bool(ticks == host["process_ticks"])
        recorded = host.get("process_start")
        return started is not None and (
            not isinstance(recorded, (int, float)) or abs(started - recorded) < _SECONDS_STARTS_MAY_DIFFER
        )
    if boot is not None and heard is not None and heard < boot_time():
        return False  # a younger heartbeat would come from another machine of the same name
    return None


def honest_status(
    recorded: str, host: Mapping[str, Any], heartbeat: datetime | None, start: datetime | None = None
) -> str:
    """Return the state of a run: as recorded, but KILLED for one that says RUNNING and whose process is gone."""
    if recorded != "RUNNING":
        return recorded or "UNKNOWN"
    return recorded if is_alive(host, heartbeat, start) else "KILLED"


def signs_of_life(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of a run's document that change with each heartbeat, or when it ends or is resumed."""
    return tuple(str(document.get(key)) for key in ("session", "status", "heartbeat"))


def watch(look: Callable[[], Mapping[Key, object]], who: str) -> set[Key]:
    """Look at runs for a little longer than a heartbeat takes, and return those that changed meanwhile.

    Args:
        look: Returns the signs of life of each run now; one that is gone is left out.
        who: What is watched, for a person: ``Training run 3 in …``.
    """
    log.warning(
        "%s: nothing was heard for minutes, but by another machine's clock, which may be wrong; watching for %g s.",
        who,
        SECONDS_TO_WATCH,
    )
    before, moved = look(), set[Key]()
    end = time.monotonic() + SECONDS_TO_WATCH
    while before.keys() - moved and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SECONDS_TO_WATCH / _LOOKS))
        now = look()
        moved |= {key for key, signs in before.items() if now.get(key) != signs}
    return moved


@functools.cache
def boot_id() -> str | None:
    """Name the boot of this machine's kernel; None where the system has no such name."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else None


def boot_time() -> datetime:
    """Return the moment of this machine's boot."""
    return datetime.fromtimestamp(psutil.boot_time(), UTC)


def pid_namespace() -> str | None:
    """Name the pid namespace of this process, ``pid:[4026531836]``; None where the system has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def process_start(pid: int) -> float | None:
    """Return the start of a process, seconds since 1970; None if it does not exist or is a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def start_ticks(pid: int) -> int | None:
    """Return the start of a process in ticks since the boot, which no setting of the clock changes; None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[_TICKS_AMONG_THE_FIELDS])
    except (OSError, ValueError, IndexError):
        return None


class Heartbeat(threading.Thread):
    """Calls ``beat`` every ``interval`` seconds and once more when stopped.

    All beats happen in this thread, which no signal interrupts, so ctrl-C cannot break one off halfway. A beat that
    fails does not end it.
    """

    def __init__(self, beat: Callable[[], None], interval: float, name: str = "heartbeat") -> None:
        super().__init__(name=name, daemon=True)
        self._beat, self._interval = beat, interval
        self._condition = threading.Condition()
        self._asked = self._done = 0
        self._stopping = self._complained = False

    def run(self) -> None:  # noqa: D102
        stopping = False
        while not stopping:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._asked > self._done, timeout=self._interval)
                stopping, asked = self._stopping, self._asked
            try:
                self._beat()
            except Exception as error:
                if not self._complained:
                    log.warning("The %s of a run failed (%s): it is tried again.", self.name, type(error).__name__)
                self._complained = True
            with self._condition:
                self._done = asked
                self._condition.notify_all()

    def ask(self) -> int:
        """Request a beat soon, without waiting; return what to pass to ``wait``."""
        with self._condition:
            self._asked += 1
            self._condition.notify_all()
            return self._asked

    def wait(self, asked: int, seconds: float | None = None) -> bool:
        """Wait for the beat that was asked for, at most some seconds, and say whether it is done.

        A thread that is gone, as after a fork, is not waited for.
        """
        left = seconds
        with self._condition:
            while self._done < asked and self.is_alive() and (left is None or left > 0):
                look = _SECONDS_BETWEEN_LOOKS if left is None else min(left, _SECONDS_BETWEEN_LOOKS)
                self._condition.wait(look)
                left = None if left is None else left - look
            return self._done >= asked

    def now(self) -> None:
        """Beat now and return when it is done."""
        self.wait(self.ask())

    def stop(self, seconds: float | None = None) -> None:
        """Beat a last time and end the thread; after some seconds leave it to itself."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self.join(seconds)
