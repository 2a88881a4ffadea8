"""The parts that all launchers share: a group of equal workers, a started worker, and the script that starts one."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import incasem_like
from incasem_like.errors import InputError

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
        count: Number of workers, at most; None means one per GPU, or one.
        minimum: Workers that are kept even while no block waits; None keeps all until the end.
        cores: CPU cores of each worker; also the number of threads that its libraries may start.
        memory: Memory of each worker in bytes; None leaves it to the queue.
        queue: Slurm's partition, or the queue of another system.
        gpus: Number of GPUs of each worker.
        time: Time limit of a worker's job in seconds; None leaves it to the queue.
        set_up: Shell lines that run before the worker (modules, conda, variables).
        options: Further options of the command that submits a job.
        command: For the launcher ``command``: how to run ``{command}``.
        python: Python interpreter on the workers' machines; None for this one.
        address: Address of an existing Dask cluster, for the launcher ``cluster``, which starts nothing.
    """

    launcher: str = "local"
    count: int | None = None
    minimum: int | None = None
    cores: int = 1
    memory: int | None = None
    queue: str | None = None
    gpus: int = 0
    time: float | None = None
    set_up: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    command: str | None = None
    python: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Place:
    """The job's folder, through which workers find their scripts and the scheduler.

    Attributes:
        folder: Folder of the job, with scripts and logs.
        reconnect: Seconds that workers on other machines look for a lost scheduler.
    """

    folder: Path
    reconnect: float = 0.0

    @property
    def connection(self) -> Path:
        """File with the scheduler's address and the key that workers authenticate with."""
        return self.folder / "connection.json"


@dataclass
class Started:
    """A started worker, represented by its process on this machine: the worker, or the program that waits for its end.

    Attributes:
        name: Name of the worker.
        process: The process on this machine.
        log: File with the worker's output.
        is_worker: Whether the process is the worker itself.
        cancel: Command that ends the worker, in addition to killing the process.
        output: File with the worker's output if a queue writes it separately; the log then has the queue's messages.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    is_worker: bool = False
    cancel: Sequence[str] | None = None
    output: Path | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while it runs or waits in a queue."""
        return self.process.poll()

    def stop(self) -> subprocess.Popen[bytes] | None:
        """End it: a child at once, a remote one by its command or queue; return the process that asks for that."""
        asking = None
        if self.cancel is not None:
            asking = subprocess.Popen(
                self.cancel, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        self._signal(signal.SIGKILL if self.is_worker else signal.SIGTERM)
        return asking

    def kill(self) -> None:
        """Kill its processes on this machine; to be called soon after ``stop``, if at all."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            if self.is_worker:
                self.process.send_signal(number)
            else:
                os.killpg(self.process.pid, number)  # processes that the command started may outlive it

    def last_words(self) -> str:
        """Return the last lines written by the worker, or by the queue about it, joined into one."""
        return (self.output is not None and last_words(self.output)) or last_words(self.log)


def last_words(path: Path) -> str:
    """Return the last distinct lines of a log, joined into one; empty if there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    different = list(dict.fromkeys(line.strip() for line in reversed(lines)))  # each attempt prints the same
    return " / ".join(reversed(different[:3]))


class Launcher(ABC):
    """Starts the workers of one group.

    Args:
        group: The group.
        place: The job's folder, where they find the script and the scheduler's address.
        label: Label of the group; its workers' names begin with it.

    Attributes:
        local: Whether its workers are children of this process.
        program: Program that must be installed here to start them, if any.
    """

    local = False
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
            InputError: The program that starts it is missing.
        """

    def words(self, name: str) -> list[str]:
        """Return the command line of a worker."""
        python, where = self.group.python or sys.executable, str(self.place.connection)
        words = [python, "-m", "incasem_like.blockwise.worker_process", "--name", name, "--connection", where]
        return [*words, "--child"] if self.local else [*words, "--reconnect", str(self.place.reconnect)]

    def write_script(self, name: str) -> Path:
        """Write the shell script of a worker and return its path."""
        package = str(Path(incasem_like.__file__).parents[1])
        path = f'export PYTHONPATH={shlex.quote(package)}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        lines = [
            "#!/bin/bash",
            *[f"export {variable}={self.group.cores}" for variable in THREAD_VARIABLES],
            *([] if self.group.python else [path]),
            *self._checked_set_up(),
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f"exec {shlex.join(self.words(name))}",
        ]
        script = self.place.folder / f"{name}.sh"
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        script.chmod(0o700)
        return script

    def _checked_set_up(self) -> list[str]:
        """Return the set-up lines, extended so that a failing command among them ends the worker and is named."""
        if not self.group.set_up:
            return []
        said = "set_up of the workers file failed with status $? at: $BASH_COMMAND"
        return [f"trap 'echo \"{said}\" >&2' ERR", "set -e", *self.group.set_up, "set +e", "trap - ERR"]

    def run(
        self,
        name: str,
        words: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cancel: Sequence[str] | None = None,
        output: Path | None = None,
    ) -> Started:
        """Run a program that lasts as long as the worker: a child, or something in a process group of its own.

        Raises:
            InputError: The program is missing.
        """
        log = self.place.folder / f"{name}.log"
        with log.open("ab") as said, deaf_to_interrupts():
            try:
                process = subprocess.Popen(
                    words, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                    start_new_session=not self.local,
                )  # fmt: skip
            except OSError as error:
                raise InputError(
                    f"{words[0]} cannot be started ({error.strerror}), which launches workers by "
                    f"{self.group.launcher}: run this where it is installed, or correct the workers file."
                ) from error
        return Started(name, process, log, self.local, cancel, output)


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes started inside inherit a signal mask that blocks ctrl-C: this process handles it for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
