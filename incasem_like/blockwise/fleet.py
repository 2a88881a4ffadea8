"""The workers that a call starts: their number is maintained while there is work, ended ones are replaced."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import incasem_like
from incasem_like.blockwise.job import last_words
from incasem_like.blockwise.launchers import LAUNCHERS, WorkerGroup, visible_gpus
from incasem_like.blockwise.worker import BROKEN
from incasem_like.errors import IncasemError, InputError
from incasem_like.processes import deaf_to_interrupts

CONNECTION = "connection.json"  # in the job's folder: the scheduler's address, and the key that workers present
LIBRARIES = "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMEXPR_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before a worker that ended without having worked is started again
ATTEMPTS = 3
SECONDS_TO_END_BY_ITSELF = 3.0  # for workers on other machines, once their scheduler's file is removed
SECONDS_TO_OBEY = 1.0
SECONDS_TO_CANCEL = 30.0  # for a queue to accept the command


class Slot:
    """A slot for one worker, refilled whenever it ends.

    Attributes:
        local: Whether the process is the worker itself; otherwise a command that lasts as long as the worker.
        always: Whether it is kept even while no block waits.
        unique_name: Its name in a queue, by which it is cancelled: known before the queue has an id.
        output: File with the worker's output, where a queue writes it; ``log`` then has the queue's messages.
        process, before: The process on this machine, if the worker was started, and the one that ended last.
        not_before: Time at which the next one may be started.
        barren: Workers that ended one after the other without having worked.
    """

    def __init__(self, group: WorkerGroup, index: int, name: str, folder: Path, *, always: bool = True) -> None:
        self.group, self.name, self.always, self.local = group, name, always, group.launcher == "local"
        self._index, self._connection, self.unique_name = index, folder / CONNECTION, f"b{folder.name}-{name}"
        self.script, self.log, self.output = (folder / f"{name}.{kind}" for kind in ("sh", "log", "out"))
        self.process: subprocess.Popen[bytes] | None = None
        self.before: subprocess.Popen[bytes] | None = None
        self.not_before, self.barren = 0.0, 0

    def start(self) -> None:
        """Start the worker: a child, or a command in a process group of its own."""
        self._write_script()
        command = self.group.start_command(self.name, self.unique_name, self.script, self.output)
        with self.log.open("ab") as log, deaf_to_interrupts():
            self.process = subprocess.Popen(
                command, shell=True, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=not self.local,
            )  # fmt: skip

    def _write_script(self) -> None:
        """Write the shell script; a set-up line that fails ends it and is named."""
        group = self.group
        exports = {f"{library}_THREADS": str(group.cores) for library in LIBRARIES}
        if self.local and group.gpus:
            exports["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus()[self._index * group.gpus :][: group.gpus])
        package = shlex.quote(str(Path(incasem_like.__file__).parents[1]))
        failed = "set_up of the workers file failed with status $? at: $BASH_COMMAND"
        words = [group.python or sys.executable, "-m", "incasem_like.blockwise.worker_process", "--name", self.name]
        words += ["--connection", str(self._connection), *(["--parent", str(os.getpid())] if self.local else [])]
        lines = [
            "#!/bin/bash",
            *[f"export {variable}={shlex.quote(value)}" for variable, value in exports.items()],
            # OpenMP's threads do not spin while they wait, unless the user's environment says so.
            'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"',
            *([] if group.python else [f'export PYTHONPATH={package}"${{PYTHONPATH:+:$PYTHONPATH}}"']),
            *(
                [f"trap 'echo \"{failed}\" >&2' ERR", "set -e", *group.set_up, "set +e", "trap - ERR"]
                * bool(group.set_up)
            ),
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f"exec {shlex.join(words)}",
        ]
        self.script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.script.chmod(0o700)

    def ask_to_end(self) -> subprocess.Popen[bytes] | None:
        """End a child; ask a command, and the queue that has the job, by the process that is returned."""
        asking, cancel = None, LAUNCHERS[self.group.launcher].cancel
        if cancel:
            cancel = cancel.replace("{name}", self.unique_name).replace("{log}", shlex.quote(str(self.log)))
            nothing = subprocess.DEVNULL
            asking = subprocess.Popen(cancel, shell=True, stdin=nothing, stdout=nothing, stderr=nothing)
        self.send(signal.SIGKILL if self.local else signal.SIGTERM)
        return asking

    def send(self, number: int) -> None:
        """Send a signal to the processes on this machine."""
        assert self.process is not None
        with contextlib.suppress(OSError):
            if self.local:
                self.process.send_signal(number)
            else:
                os.killpg(self.process.pid, number)  # processes that the command started may outlive it

    def exit_status(self, pid: int) -> int | None:
        """Return the exit status of an ended worker, whose ``pid`` distinguishes it from its replacement, if known."""
        for process in (self.process, self.before):
            if process is not None and (not self.local or process.pid == pid):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(SECONDS_TO_OBEY)
        return None

    def last_words(self) -> str:
        """Return the last lines written by the worker, or by the queue about it, joined into one."""
        return last_words(self.output) or last_words(self.log)


class Fleet:
    """The workers of one or more groups, which find their scripts and the scheduler's address in the job's folder.

    Attributes:
        slots: One for each worker, by name.
    """

    def __init__(self, groups: Sequence[WorkerGroup], folder: Path) -> None:
        self.slots: dict[str, Slot] = {}
        self._folder, self._barren = folder, 0
        for position, group in enumerate(groups):
            label = group.launcher if len(groups) == 1 else f"{group.launcher}{position + 1}"
            least = group.number if group.adaptive is None else group.adaptive.minimum
            for index in range(group.number):
                name = f"{label}-{index + 1}"
                self.slots[name] = Slot(group, index, name, folder, always=index < least)

    def tend(self, left: int, waiting: int) -> None:
        """Start missing workers, no more than blocks are ``left``, some only if blocks are ``waiting`` for a worker.

        Raises:
            IncasemError: Workers end again and again before they have set up the task.
            InputError: Starting them fails again and again: the queue refuses, set_up fails, or a program is missing.
        """
        now = time.monotonic()
        for slot in list(self.slots.values())[:left]:
            if slot.process is not None and slot.process.poll() is not None:
                self._note_end(slot, slot.process, now)
            if slot.process is None and now >= slot.not_before and (slot.always or waiting):
                slot.start()

    def _note_end(self, slot: Slot, ended: subprocess.Popen[bytes], now: float) -> None:
        slot.before, slot.process = ended, None
        slot.barren += 1  # taken back by worked()
        self._barren += 1
        if slot.barren > 1:
            slot.not_before = now + min(FIRST_WAIT * 2**slot.barren, LONGEST_WAIT)
        if self._barren > max(ATTEMPTS, len(self.slots)):
            status = ended.returncode
            kind = IncasemError if status == BROKEN or status < 0 else InputError  # else a queue or the set_up refuses
            raise kind(
                f"Workers end before they can begin, status {status}, the last one saying "
                f'"{slot.last_words() or "nothing"}": mend that and run the same command again; '
                f"its log is {slot.log}."
            )

    def worked(self, name: str) -> None:
        """Note that a worker has set up the task or done a block, so that workers are known to start."""
        self._barren = 0
        if (slot := self.slots.get(name)) is not None:
            slot.barren, slot.not_before = -1, 0.0

    def last_words(self) -> str:
        """Return the last message of some worker, or of the queue about it."""
        return next(filter(None, (slot.last_words() for slot in self.slots.values())), "")

    def announce(self, scheduler: Mapping[str, Any]) -> None:
        """Write the scheduler's address and key (JSON-serializable) to the file that workers look into."""
        (self._folder / CONNECTION).write_text(json.dumps(scheduler))

    def end(self, *, gently: bool = False) -> None:
        """End all workers; ``gently`` gives those on other machines a moment to end by themselves."""
        (self._folder / CONNECTION).unlink(missing_ok=True)
        deadline = time.monotonic() + (SECONDS_TO_END_BY_ITSELF if gently else 0.0)
        for slot in self.slots.values():
            while not slot.local and slot.process and slot.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        end_workers(self.slots.values())
        for left in ("at", "scratch"):
            shutil.rmtree(self._folder / left, ignore_errors=True)


@contextlib.contextmanager
def started_fleet(groups: Sequence[WorkerGroup], folder: Path, blocks: int) -> Iterator[Fleet]:
    """Start workers, no more than ``blocks``, which load their modules while this process starts their scheduler.

    Raises:
        InputError: The file system does not keep permissions, so that others could read the workers' key.
    """
    connection = folder / CONNECTION
    connection.unlink(missing_ok=True)
    connection.touch(0o600, exist_ok=False)
    if connection.stat().st_mode & 0o077:
        connection.unlink()
        raise InputError(
            f"{folder} is on a file system where others can read the workers' key: "
            "set INCASEM_JOBS to a folder on one that keeps permissions."
        )
    fleet = Fleet(groups, folder)
    try:
        fleet.tend(blocks, blocks)
        yield fleet
    finally:
        fleet.end()


def end_workers(slots: Iterable[Slot]) -> None:
    """End workers together, at once; those that hang are killed. ``Fleet.tend`` replaces them."""
    alive = [(slot, slot.process) for slot in slots if slot.process is not None and slot.process.poll() is None]
    deadline = time.monotonic() + SECONDS_TO_CANCEL
    for asked in [asked for slot, _ in alive if (asked := slot.ask_to_end()) is not None]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            asked.wait(max(0.0, deadline - time.monotonic()))
    deadline = time.monotonic() + SECONDS_TO_OBEY
    for slot, process in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        slot.send(signal.SIGKILL)
        process.wait()
