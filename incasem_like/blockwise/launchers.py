"""Groups of workers, and the ways to start one: as a process here, a job of a queue, or by any command.

A way is an entry of ``LAUNCHERS``: a command that lasts as long as the worker and returns its exit status. That of a
queue waits for the job's end and prints the queue's messages.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field, model_validator

from incasem_like.config.kinds import Count, Positive, Text, Words, contradiction
from incasem_like.config.section import Document

MEGABYTE = 2**20
_UNITS = {"": 2**20, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


class WorkerJob(Protocol):
    """A worker to start, as launchers see it: see ``fleet.Slot``."""

    group: WorkerGroup
    name: str
    unique_name: str
    script: Path
    output: Path


def _given(*pairs: tuple[str, Any]) -> list[str]:
    """Return the options that have a value."""
    return [word for flag, value in pairs if value for word in (flag, str(value))]


def _command(job: WorkerJob) -> list[str]:
    template = job.group.command or "{command}"
    command = template.replace("{command}", shlex.join(["bash", str(job.script)])).replace("{name}", job.name)
    return ["/bin/sh", "-c", command]


def _slurm(job: WorkerJob) -> list[str]:
    group = job.group
    wanted = _given(
        ("--mem", group.megabytes and f"{group.megabytes}M"), ("--partition", group.queue),
        ("--gres", group.gpus and f"gpu:{group.gpus}"), ("--time", group.minutes),
    )  # fmt: skip
    words = ["sbatch", "--wait", "--job-name", job.unique_name, "--output", str(job.output), "--open-mode", "append"]
    return [*words, "--ntasks", "1", "--cpus-per-task", str(group.cores), *wanted, *group.options, str(job.script)]


def _lsf(job: WorkerJob) -> list[str]:
    group = job.group
    memory = group.megabytes and f"{group.megabytes}MB"
    wanted = _given(
        ("-M", memory), ("-R", memory and f"rusage[mem={memory}]"), ("-q", group.queue),
        ("-gpu", group.gpus and f"num={group.gpus}"), ("-W", group.minutes),
    )  # fmt: skip
    words = ["bsub", "-K", "-J", job.unique_name, "-o", str(job.output), "-n", str(group.cores), "-R", "span[hosts=1]"]
    return [*words, *wanted, *group.options, "bash", str(job.script)]


def _pbs(job: WorkerJob) -> list[str]:
    group = job.group
    chunk = f"select=1:ncpus={group.cores}"
    chunk += f":mem={group.megabytes}mb" if group.megabytes else ""
    chunk += f":ngpus={group.gpus}" if group.gpus else ""
    wanted = _given(("-l", group.clock and f"walltime={group.clock}"), ("-q", group.queue))
    words = ["qsub", "-W", "block=true", "-N", job.unique_name, "-j", "oe", "-o", str(job.output), "-l", chunk]
    return [*words, *wanted, *group.options, str(job.script)]


def _sge(job: WorkerJob) -> list[str]:
    group = job.group
    wanted = _given(
        ("-q", group.queue), ("-l", group.clock and f"h_rt={group.clock}"),
        ("-l", group.megabytes and f"h_vmem={-(-group.megabytes // group.cores)}M"),  # requested per core
        ("-l", group.gpus and f"gpu={group.gpus}"),
    )  # fmt: skip
    cores = ["-pe", "smp", str(group.cores)] if group.cores > 1 else []
    words = ["qsub", "-sync", "y", "-N", job.unique_name, "-j", "y", "-o", str(job.output), "-S", "/bin/bash"]
    return [*words, *cores, *wanted, *group.options, str(job.script)]


def _htcondor(job: WorkerJob) -> list[str]:
    """Return a shell command: HTCondor takes a file, and the exit status is in the job's log."""
    group, log = job.group, job.script.with_suffix(".condor")
    lines = [
        f"executable={job.script}", f"output={job.output}", f"error={job.output}", f"log={log}", "stream_output=True",
        "stream_error=True", f"batch_name={job.unique_name}", f"request_cpus={group.cores}",
        *([f"request_memory={group.megabytes}"] if group.megabytes else []),
        *([f"request_gpus={group.gpus}"] if group.gpus else []),
        *([f"+MaxRuntime={math.ceil(group.time)}"] if group.time else []),
        *([f'+AccountingGroup="{group.queue}"'] if group.queue else []), *group.options, "queue",
    ]  # fmt: skip
    file = job.script.with_suffix(".submit")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log.unlink(missing_ok=True)
    quoted = shlex.quote(str(log))
    status = f"status=$(sed -n 's/.*return value \\([0-9]*\\).*/\\1/p' {quoted} | tail -n 1)"
    wait = f"condor_wait {quoted} && {status} && exit ${{status:-1}}"  # a job ended by a signal has none
    return ["sh", "-c", f"condor_submit {shlex.quote(str(file))} && {wait}"]


def _oar(job: WorkerJob) -> list[str]:
    """Return a shell command: OAR does not wait, so the job is polled until it has ended."""
    group = job.group
    resources = f"/nodes=1/gpu={group.gpus}" if group.gpus else f"/nodes=1/core={group.cores}"
    resources += f",walltime={group.clock}" if group.clock else ""
    words = ["oarsub", "-n", job.unique_name, "-l", resources, "-O", str(job.output), "-E", str(job.output)]
    submit = shlex.join([*words, *_given(("-q", group.queue)), *group.options, str(job.script)])
    return [
        "sh", "-c",
        f'said=$({submit}); status=$?; echo "$said"; [ $status = 0 ] || exit $status\n'
        'id=$(echo "$said" | sed -n "s/^OAR_JOB_ID=//p")\n'
        'while state=$(oarstat -s -j "$id") && ! echo "$state" | grep -qE "Terminated|Error"; do sleep 2; done\n'
        'echo "$state" | grep -q Terminated',
    ]  # fmt: skip


@dataclass(frozen=True)
class Launcher:
    """A way to start a worker.

    Attributes:
        command: Returns the command, which lasts as long as the worker.
        program: Program of a batch queue that submits a job.
        cancel: Shell command that ends a job of a queue; ``{name}`` is its unique name, ``{log}`` the log.
    """

    command: Callable[[WorkerJob], list[str]]
    program: str | None = None
    cancel: str = ""
    account: str = ""


LAUNCHERS = {
    "local": Launcher(lambda job: ["bash", str(job.script)]),
    "slurm": Launcher(_slurm, "sbatch", "scancel --name {name}", "--account="),
    "lsf": Launcher(_lsf, "bsub", "bkill -J {name}", "-P "),
    "pbs": Launcher(_pbs, "qsub", "qdel $(grep -o '^[0-9][^ ]*' {log} | tail -n 1)", "-A "),
    "sge": Launcher(_sge, "qsub", "qdel {name}", "-P "),
    "htcondor": Launcher(
        _htcondor, "condor_submit", "condor_rm -constraint 'JobBatchName == \"{name}\"'", "accounting_group="
    ),
    "oar": Launcher(_oar, "oarsub", "oardel $(sed -n 's/^OAR_JOB_ID=//p' {log} | tail -n 1)", "--project="),
    "command": Launcher(_command),
}
QUEUES = {name: launcher for name, launcher in LAUNCHERS.items() if launcher.program}


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without loading torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(drivers.iterdir())))] if drivers.is_dir() else []


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


Memory = Annotated[int, BeforeValidator(_memory), Words("an amount of memory such as 16GiB")]
Duration = Annotated[float, BeforeValidator(_duration), Words("a time such as 90s, 30min, 24h or 24:00:00")]
Lines = Annotated[
    tuple[Text, ...],
    BeforeValidator(lambda value: tuple(value.splitlines()) if isinstance(value, str) else value),
    Words("a text or a list of texts"),
]
Options = Annotated[
    tuple[Text, ...],
    BeforeValidator(lambda value: tuple(shlex.split(value)) if isinstance(value, str) else value),  # as a shell would
    Words("words such as --account=lab, their quotes closed, or a list"),
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

    launcher: Literal[tuple(LAUNCHERS)] = Field("local", description="What starts the workers.")  # type: ignore[valid-type]
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
    def number(self) -> int:
        """Number of workers, at most: as requested, else one per GPU of this machine for local ones, else one."""
        if self.adaptive is not None:
            return self.adaptive.maximum
        per_gpu = len(visible_gpus()) // self.gpus if self.launcher == "local" and self.gpus and not self.count else 1
        return self.count or max(1, per_gpu)

    @property
    def megabytes(self) -> int:
        """Memory, rounded up; 0 where none is asked for."""
        return -(-(self.memory or 0) // MEGABYTE)

    @property
    def minutes(self) -> int:
        """Time limit, rounded up; 0 for none."""
        return math.ceil((self.time or 0) / 60)

    @property
    def clock(self) -> str:
        """Time limit as hours, minutes and seconds; empty for none."""
        minutes, seconds = divmod(math.ceil(self.time or 0), 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}" if self.time else ""

    @model_validator(mode="after")
    def _fits_its_launcher(self) -> WorkerGroup:
        if self.launcher == "command":
            if self.command is None:
                raise contradiction('launcher "command" needs a command, such as command: ssh node7 {command}.')
            try:
                named = {name for _, name, _, _ in string.Formatter().parse(self.command) if name is not None}
            except ValueError:
                named = set()
            if not {"command"} <= named <= {"command", "name"}:
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
