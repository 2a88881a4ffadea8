"""Groups of workers, and the ways to start one: as a process here, a job of a queue, or by any command.

A way is an entry of ``LAUNCHERS``: a shell command that lasts as long as the worker and returns its exit status. That
of a queue waits for the job's end and prints the queue's messages.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from incasem_like.config.kinds import Count, Positive, Text, Words, contradiction
from incasem_like.config.section import Document

_UNITS = {"": 2**20, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SECONDS = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Launcher:
    """A way to start a worker.

    ``command`` is the template of a shell command that lasts as long as the worker, with the values of
    ``WorkerGroup.start_command``. A part in double brackets is left out where a value in it is not given.
    """

    command: str
    program: str | None = None  # of a batch queue, submits a job
    cancel: str = ""  # shell command that ends a job of a queue; {name} is its unique name, {log} the log
    account: str = ""  # option of the queue that names who pays


# HTCondor takes a file, and the exit status is in the job's log: a job ended by a signal has none.
_HTCONDOR = (
    "printf '%s\\n' executable={script} output={output} error={output} log={script}.condor stream_output=True "
    "stream_error=True batch_name={name} request_cpus={cores} [[request_memory={memory_mb}]] [[request_gpus={gpus}]] "
    """[[+MaxRuntime={time_seconds}]] [[+AccountingGroup='"'{queue}'"']] {options} queue > {script}.submit; """
    "rm -f {script}.condor; condor_submit {script}.submit && condor_wait {script}.condor && "
    "status=$(sed -n 's/.*return value \\([0-9]*\\).*/\\1/p' {script}.condor | tail -n 1) && exit ${status:-1}"
)
# OAR does not wait, so the job is polled until it has ended.
_OAR = (
    "said=$(oarsub -n {name} -l /nodes=1/{gpus_or_cores}[[,walltime={time_clock}]] -O {output} -E {output} "
    '[[-q {queue}]] {options} {script}); status=$?; echo "$said"; [ $status = 0 ] || exit $status\n'
    'id=$(echo "$said" | sed -n "s/^OAR_JOB_ID=//p")\n'
    'while state=$(oarstat -s -j "$id") && ! echo "$state" | grep -qE "Terminated|Error"; do sleep 2; done\n'
    'echo "$state" | grep -q Terminated'
)
LAUNCHERS = {
    "local": Launcher("exec {command}"),
    "slurm": Launcher(
        "exec sbatch --wait --job-name {name} --output {output} --open-mode append --ntasks 1 --cpus-per-task {cores} "
        "[[--mem {memory_mb}M]] [[--partition {queue}]] [[--gres gpu:{gpus}]] [[--time {time_minutes}]] {options} "
        "{script}", "sbatch", "scancel --name {name}", "--account=",
    ),
    "lsf": Launcher(
        "exec bsub -K -J {name} -o {output} -n {cores} -R 'span[hosts=1]' [[-M {memory_mb}MB "
        "-R 'rusage[mem={memory_mb}MB]']] [[-q {queue}]] [[-gpu num={gpus}]] [[-W {time_minutes}]] {options} bash "
        "{script}", "bsub", "bkill -J {name}", "-P ",
    ),
    "pbs": Launcher(
        "exec qsub -W block=true -N {name} -j oe -o {output} -l select=1:ncpus={cores}[[:mem={memory_mb}mb]]"
        "[[:ngpus={gpus}]] [[-l walltime={time_clock}]] [[-q {queue}]] {options} {script}",
        "qsub", "qdel $(grep -o '^[0-9][^ ]*' {log} | tail -n 1)", "-A ",
    ),
    "sge": Launcher(
        "exec qsub -sync y -N {name} -j y -o {output} -S /bin/bash [[-pe smp {several_cores}]] [[-q {queue}]] "
        "[[-l h_rt={time_clock}]] [[-l h_vmem={memory_mb_per_core}M]] [[-l gpu={gpus}]] {options} {script}",
        "qsub", "qdel {name}", "-P ",
    ),
    "htcondor": Launcher(
        _HTCONDOR, "condor_submit", "condor_rm -constraint 'JobBatchName == \"{name}\"'", "accounting_group="
    ),
    "oar": Launcher(_OAR, "oarsub", "oardel $(sed -n 's/^OAR_JOB_ID=//p' {log} | tail -n 1)", "--project="),
    "command": Launcher("{command}"),
}  # fmt: skip
QUEUES = {name: launcher for name, launcher in LAUNCHERS.items() if launcher.program}


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without loading torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(drivers.iterdir())))] if drivers.is_dir() else []


def _amount(value: object, unit: str, factors: Mapping[str, int]) -> float:
    """Read a number above 0 and a unit that the pattern ``unit`` matches."""
    found = re.fullmatch(rf"\s*(\d+(?:\.\d+)?)\s*{unit}\s*", str(value).lower())
    if isinstance(value, bool) or found is None or float(found[1]) <= 0:
        raise ValueError("not an amount")
    return float(found[1]) * factors[found[2] or ""]


def _memory(value: object) -> int:
    """Read ``16GiB``, ``16 GB``, ``16g`` (all powers of 1024, as in queues) or a number of MiB."""
    return int(_amount(value, "([kmgt]?)(?:i?b)?", _UNITS))


def _duration(value: object) -> float:
    """Read seconds, ``90s``, ``30 min``, ``24h``, ``2d``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    YAML 1.1 reads an unquoted ``24:00:00`` as a number of seconds.
    """
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", str(value).strip()):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    return _amount(value, "(s|sec|m|min|h|d)?", _SECONDS)


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

    def start_command(self, name: str, unique_name: str, script: Path, output: Path) -> str:
        """Return the shell command that starts a worker and lasts as long as it does.

        Args:
            name: The worker's name within the call.
            unique_name: Its name in the queue.
            script: Shell script that becomes the worker.
            output: File for the worker's output.
        """
        megabytes, seconds = math.ceil((self.memory or 0) / 2**20), math.ceil(self.time or 0)
        asked = {
            "name": unique_name, "script": script, "output": output, "queue": self.queue, "cores": self.cores,
            "several_cores": self.cores > 1 and self.cores, "gpus": self.gpus,
            "gpus_or_cores": f"gpu={self.gpus}" if self.gpus else f"core={self.cores}",
            "memory_mb": megabytes, "memory_mb_per_core": -(-megabytes // self.cores),
            "time_minutes": -(-seconds // 60), "time_seconds": seconds,
            "time_clock": seconds and f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        }  # fmt: skip
        values = {key: shlex.quote(str(value)) if value else "" for key, value in asked.items()}
        run = shlex.join(["bash", str(script)])
        values["command"] = (self.command or "{command}").replace("{command}", run).replace("{name}", name)
        values["options"] = shlex.join(self.options)

        def given(part: re.Match[str]) -> str:
            return part[1] if all(values[key] for key in re.findall(r"{(\w+)}", part[1])) else ""

        template = re.sub(r"\[\[(.*?)\]\]", given, LAUNCHERS[self.launcher].command)
        return re.sub(r"{(\w+)}", lambda key: values[key[1]], template)

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
        for key in ("queue", "options", "time", "memory"):
            known = f"{{{key}" in LAUNCHERS[self.launcher].command or (self.launcher, key) == ("command", "memory")
            if getattr(self, key) and not known:
                remedy = ", or ask for it by options" if self.launcher in QUEUES else ""
                raise contradiction(f'{key} means nothing to launcher "{self.launcher}": drop it{remedy}.')
        if self.adaptive is not None and self.count is not None:
            raise contradiction(f"count is {self.count}, but adaptive says how many workers there are: drop one.")
        return self
