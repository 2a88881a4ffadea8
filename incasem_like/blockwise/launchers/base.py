"""What all launchers share: a group of like workers, a started worker, and the script that a worker begins with."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import incasem_like

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
_LAST_BYTES = 4000


@dataclass(frozen=True)
class WorkerGroup:
    """Workers of one kind.

    Attributes:
        launcher: Name in the registry of launchers.
        count: Workers; None means one per GPU, or one.
        cores: Of each worker; also the number of threads that its libraries may start.
        memory: Bytes of each worker; None leaves it to the queue.
        queue: Slurm's partition, LSF's queue.
        gpus: Of each worker.
        time: Seconds that the queue may let a worker run; None leaves it to the queue.
        set_up: Lines of shell that run before the worker (modules, conda, variables).
        options: Further options of ``sbatch`` or ``bsub``.
        command: For the launcher ``command``: how to run ``{command}``.
        python: Interpreter on the workers' machines; None for this one.
    """

    launcher: str = "local"
    count: int | None = None
    cores: int = 1
    memory: int | None = None
    queue: str | None = None
    gpus: int = 0
    time: float | None = None
    set_up: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    command: str | None = None
    python: str | None = None


@dataclass(frozen=True)
class Place:
    """Where workers find what they need.

    Attributes:
        folder: Of the job: scripts and logs.
        token: The run's secret.
        reconnect: Seconds that workers of other machines look for a lost scheduler.
    """

    folder: Path
    token: bytes
    reconnect: float

    @property
    def connection(self) -> Path:
        """File that says where the scheduler is, and the token."""
        return self.folder / "connection.json"


@dataclass
class Started:
    """A worker that was started, by its process on this machine: itself, or the program that waits for its end.

    Attributes:
        name: Of the worker.
        process: On this machine.
        log: What the worker says.
        link: The scheduler's end of the connection where the worker inherits the other end; else it calls back.
        cancel: Command that ends the worker beside killing the process; None where the process is the worker.
        output: What the worker says where a queue writes that elsewhere; the log then holds the queue's own words.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    link: socket.socket | None = None
    cancel: Sequence[str] | None = None
    output: Path | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while it runs or waits in a queue."""
        return self.process.poll()

    def stop(self) -> None:
        """Have it ended: a child at once, what runs elsewhere by the word of its queue or of its own command."""
        if self.poll() is not None:
            return
        if self.cancel is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(self.cancel, capture_output=True, timeout=30, check=False)
        if self.link is not None:
            self.kill()
        else:
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its processes on this machine, whatever they are at; to be called soon after ``stop``, if at all."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            if self.link is not None:
                self.process.send_signal(number)
            else:
                os.killpg(self.process.pid, number)  # what the command left behind may outlive the command itself

    def last_words(self) -> str:
        """Return the last lines that the worker wrote, or the queue about it, in one line."""
        return (self.output is not None and last_words(self.output)) or last_words(self.log)


def last_words(path: Path) -> str:
    """Return the last different lines of a log, in one line; nothing where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    different = list(dict.fromkeys(line.strip() for line in reversed(lines)))  # each attempt says the same again
    return " / ".join(reversed(different[:3]))


class Launcher(ABC):
    """Starts the workers of one group.

    Args:
        group: Which.
        place: Where they find what they need.
        label: Of the group; its workers' names begin with it.

    Attributes:
        calls_back: Whether its workers connect to a port of the scheduler.
        program: What has to be installed here to start them, if anything.
    """

    calls_back = True
    program: str | None = None

    def __init__(self, group: WorkerGroup, place: Place, label: str) -> None:
        self.group, self.place, self.label = group, place, label

    @property
    def count(self) -> int:
        """Workers of the group."""
        return self.group.count or 1

    @abstractmethod
    def start(self, name: str, index: int) -> Started:
        """Start a worker.

        Args:
            name: Its name.
            index: Its number within the group.

        Raises:
            InputError: The program that starts it is not there.
        """

    def log(self, name: str) -> Path:
        """Name the file of what a worker says."""
        return self.place.folder / f"{name}.log"

    def words(self, *where: str) -> list[str]:
        """Return the command of a worker but for its name."""
        python = self.group.python or sys.executable
        return [python, "-m", "incasem_like.blockwise.worker_process", *where]

    def script(self, *where: str) -> str:
        """Return the shell script of a worker, whose first argument is its name."""
        threads = [f"export {variable}={self.group.cores}" for variable in THREAD_VARIABLES]
        package = str(Path(incasem_like.__file__).parents[1])
        path = f'export PYTHONPATH={shlex.quote(package)}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        lines = [
            "#!/bin/bash",
            *threads,
            *([] if self.group.python else [path]),
            *self._checked_set_up(),
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f'exec {shlex.join(self.words(*where))} --name "$1"',
        ]
        return "\n".join(lines) + "\n"

    def _checked_set_up(self) -> list[str]:
        """Return the set-up lines so that a command among them that fails ends the worker, and is named."""
        if not self.group.set_up:
            return []
        said = "set_up of the workers file failed with status $? at: $BASH_COMMAND"
        return [f"trap 'echo \"{said}\" >&2' ERR", "set -e", *self.group.set_up, "set +e", "trap - ERR"]

    def write_script(self) -> Path:
        """Write the script of the group's workers and return its path."""
        path = self.place.folder / f"{self.label}.sh"
        where = ("--connection", str(self.place.connection), "--reconnect", str(self.place.reconnect))
        path.write_text(self.script(*where), encoding="utf-8")
        path.chmod(0o700)
        return path


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes started inside inherit a signal mask that keeps ctrl-C away: this process answers it for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
