"""Groups of equal workers, and the launchers that start them: as children of this process, or by any command."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import string
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

import incasem_like
from incasem_like.config.kinds import Count, Positive, Text, Words, contradiction
from incasem_like.config.section import Document
from incasem_like.errors import InputError
from incasem_like.processes import deaf_to_interrupts

CONNECTION = "connection.json"  # in the job's folder: the scheduler's address, and the key that workers present
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
WAIT_POLICY = "PASSIVE"  # OpenMP's threads do not spin while they wait, unless the user's environment says so
_LAST_BYTES = 4000
_UNITS = {"": 2**20, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def _memory(value: object) -> int:
    """Read ``16GiB``, ``16 GB``, ``16g`` (all powers of 1024, as in queues) or a number of MiB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(value).lower())
    if isinstance(value, bool) or found is None or float(found[1]) <= 0:
        raise ValueError("not an amount of memory")
    return int(float(found[1]) * _UNITS[found[2]])


def _duration(value: object) -> float:
    """Read seconds, ``90s``, ``30 min``, ``24h``, ``2d``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    YAML 1.1 reads an unquoted ``24:00:00`` as a number of seconds.
    """
    text = str(value).strip().lower()
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)?", text)
    if isinstance(value, bool) or found is None or float(found[1]) <= 0:
        raise ValueError("not a time")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _lines(value: object) -> object:
    return tuple(value.splitlines()) if isinstance(value, str) else value


def _words(value: object) -> object:
    """Split a text as a shell would: ``--account=lab --comment='two words'`` are two words."""
    return tuple(shlex.split(value)) if isinstance(value, str) else value


Memory = Annotated[int, BeforeValidator(_memory), Words("an amount of memory such as 16GiB")]
Duration = Annotated[float, BeforeValidator(_duration), Words("a time such as 90s, 30min, 24h or 24:00:00")]
Lines = Annotated[tuple[Text, ...], BeforeValidator(_lines), Words("a text or a list of texts")]
Options = Annotated[
    tuple[Text, ...], BeforeValidator(_words), Words("words such as --account=lab, their quotes closed, or a list")
]


class AdaptiveSection(Document):
    """The number of workers: the maximum while blocks wait, the minimum while none does."""

    minimum: Count = Field(0, description="Workers that are kept even while no block waits.")
    maximum: Positive = Field(description="Workers while blocks wait.")

    @model_validator(mode="after")
    def _minimum_is_less(self) -> AdaptiveSection:
        if self.minimum > self.maximum:
            raise contradiction(f"adaptive.minimum is {self.minimum}, but maximum is {self.maximum}: raise maximum.")
        return self


class WorkerGroup(Document):
    """Workers of one kind; memory is in bytes and times are in seconds once read."""

    launcher: Text = Field("local", description="What starts the workers: a name in the registry of launchers.")
    count: Positive | None = Field(None, description="Workers; null = one per GPU on this machine, else 1.")
    adaptive: AdaptiveSection | None = Field(None, description="Workers come and go with the blocks that wait.")
    cores: Positive = Field(1, description="CPU cores of each worker, and threads that its libraries start.")
    memory: Memory | None = Field(None, description="Memory of each worker, asked of the queue.")
    queue: Text | None = Field(None, description="Slurm's partition, or another system's queue.")
    gpus: Count = Field(0, description="GPUs of each worker.")
    time: Duration | None = Field(None, description="How long the queue may let a worker run.")
    set_up: Lines = Field((), description="Shell lines before the worker: modules, conda, variables.")
    options: Options = Field((), description="Further options of the submitting command: a text, or words.")
    command: Text | None = Field(None, description="For `command`: how to run `{command}`.")
    python: Text | None = Field(None, description="Interpreter on the workers' machines; null = this one.")

    @property
    def most(self) -> int | None:
        """Number of workers, at most; None means one per GPU on this machine, or one."""
        return self.count if self.adaptive is None else self.adaptive.maximum

    @model_validator(mode="after")
    def _fits_its_launcher(self) -> WorkerGroup:
        if self.launcher == "command":
            if self.command is None:
                raise contradiction('launcher "command" needs a command, such as command: ssh node7 {command}.')
            if not {"command"} <= _placeholders(self.command) <= {"command", "name"}:
                raise contradiction(
                    f'command is "{self.command}", but must hold {{command}}, may hold {{name}}, and nothing else in '
                    "braces."
                )
        elif self.command is not None:
            raise contradiction(f'command is for launcher "command", but launcher is "{self.launcher}": drop one.')
        if self.launcher in ("local", "command"):
            for key in ("queue", "options", "time", *(("memory",) if self.launcher == "local" else ())):
                if getattr(self, key):
                    raise contradiction(f'{key} is asked of a queue, but launcher is "{self.launcher}": drop it.')
        if self.launcher == "oar" and self.memory:
            raise contradiction(
                "memory has no name that all OAR clusters share: drop it, and ask by options, such as -p 'mem > 16000'."
            )
        if self.adaptive is not None and self.count is not None:
            raise contradiction(f"count is {self.count}, but adaptive says how many workers there are: drop one.")
        return self


def _placeholders(template: str) -> set[str]:
    try:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError:
        return set()


@dataclass
class Started:
    """A started worker, represented by its process on this machine: the worker, or the program that waits for its end.

    Attributes:
        process: The process on this machine.
        log: File with the worker's output.
        is_worker: Whether the process is the worker itself.
        cancel: Command that ends the worker, in addition to killing the process.
        output: File with the worker's output if a queue writes it separately; the log then has the queue's messages.
    """

    process: subprocess.Popen[bytes]
    log: Path
    is_worker: bool = False
    cancel: Sequence[str] | None = None
    output: Path | None = None

    def stop(self) -> subprocess.Popen[bytes] | None:
        """End it: a child at once, a remote one by its command or queue; return the process that asks for that."""
        asking = None
        if self.cancel is not None:
            nothing = subprocess.DEVNULL
            asking = subprocess.Popen(self.cancel, stdin=nothing, stdout=nothing, stderr=nothing)
        self.send(signal.SIGKILL if self.is_worker else signal.SIGTERM)
        return asking

    def send(self, number: int) -> None:
        """Send a signal to its processes on this machine."""
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
        folder: The job's folder, where workers find their scripts and the scheduler's address.

    Attributes:
        local: Whether its workers are children of this process.
        program: Program that must be installed here to start them, if any.
    """

    local = False
    program: str | None = None

    def __init__(self, group: WorkerGroup, folder: Path) -> None:
        self.group, self.folder = group, folder

    @property
    def count(self) -> int:
        """Workers of the group."""
        return self.group.most or 1

    @abstractmethod
    def start(self, name: str, index: int) -> Started:
        """Start a worker.

        Args:
            name: Its name.
            index: Its number within the group.

        Raises:
            InputError: The program that starts it is missing.
        """

    @property
    def threads(self) -> dict[str, str]:
        """The variables that limit the threads of libraries."""
        return dict.fromkeys(THREAD_VARIABLES, str(self.group.cores))

    def words(self, name: str) -> list[str]:
        """Return the command line of a worker."""
        python, where = self.group.python or sys.executable, str(self.folder / CONNECTION)
        words = [python, "-m", "incasem_like.blockwise.worker_process", "--name", name, "--connection", where]
        return [*words, "--parent", str(os.getpid())] if self.local else words

    def write_script(self, name: str) -> Path:
        """Write the shell script of a worker and return its path; a set-up line that fails ends it and is named."""
        package = str(Path(incasem_like.__file__).parents[1])
        path = f'export PYTHONPATH={shlex.quote(package)}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        said = "set_up of the workers file failed with status $? at: $BASH_COMMAND"
        set_up = [f"trap 'echo \"{said}\" >&2' ERR", "set -e", *self.group.set_up, "set +e", "trap - ERR"]
        lines = [
            "#!/bin/bash",
            *[f"export {variable}={number}" for variable, number in self.threads.items()],
            f'export OMP_WAIT_POLICY="${{OMP_WAIT_POLICY:-{WAIT_POLICY}}}"',
            *([] if self.group.python else [path]),
            *(set_up if self.group.set_up else []),
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f"exec {shlex.join(self.words(name))}",
        ]
        script = self.folder / f"{name}.sh"
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        script.chmod(0o700)
        return script

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
        log = self.folder / f"{name}.log"
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
        return Started(process, log, self.local, cancel, output)


class LocalLauncher(Launcher):
    """Starts child processes; with GPUs, each gets its own."""

    local = True

    @property
    def count(self) -> int:
        """Number of workers of the group: as requested, else one per GPU, else one.

        Raises:
            InputError: More GPUs are requested than exist.
        """
        most, gpus = self.group.most, self.group.gpus
        if not gpus:
            return most or 1
        devices = visible_gpus()
        count = most or len(devices) // gpus
        if not count or count * gpus > len(devices):
            raise InputError(
                f"{max(count, 1)} workers with {gpus} GPUs each are asked for, but this machine shows "
                f"{len(devices)}: reduce count or gpus in the workers file."
            )
        return count

    def start(self, name: str, index: int) -> Started:
        """Start a child process; see ``Launcher.start``."""
        environment = {"OMP_WAIT_POLICY": WAIT_POLICY, **os.environ, **self.threads}
        if self.group.gpus:
            own = visible_gpus()[index * self.group.gpus :][: self.group.gpus]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        words = ["bash", str(self.write_script(name))] if self.group.set_up else self.words(name)
        return self.run(name, words, environment=environment)


class CommandLauncher(Launcher):
    """Runs a template in a shell: ``ssh node7 {command}``, ``srun {command}``, ``docker exec box {command}``."""

    def start(self, name: str, index: int) -> Started:
        """Run the command, which must last as long as the worker; see ``Launcher.start``."""
        command = shlex.join(["bash", str(self.write_script(name))])
        template = self.group.command or "{command}"
        return self.run(name, ["/bin/sh", "-c", template.replace("{command}", command).replace("{name}", name)])


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without loading torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(drivers.iterdir())))] if drivers.is_dir() else []
