"""Workers as jobs of a batch queue, each by a command that waits for the job's end and returns its exit status.

Such a command prints the queue's messages, and its exit status is the worker's. A further queue is one entry of
``QUEUES``.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.blockwise.launchers.base import Launcher, Started, WorkerGroup

MEGABYTE = 2**20


@dataclass(frozen=True)
class Job:
    """A worker as a job of a queue.

    Attributes:
        group: The resources it needs.
        name: Unique name.
        script: Script to run.
        output: File for its output.
    """

    group: WorkerGroup
    name: str
    script: Path
    output: Path

    @property
    def megabytes(self) -> int | None:
        """Memory, rounded up."""
        return None if self.group.memory is None else -(-self.group.memory // MEGABYTE)

    @property
    def minutes(self) -> str | None:
        """Time limit, at least a minute."""
        return None if self.group.time is None else str(max(1, math.ceil(self.group.time / 60)))

    @property
    def clock(self) -> str | None:
        """Time limit as hours, minutes and seconds."""
        if self.group.time is None:
            return None
        minutes, seconds = divmod(math.ceil(self.group.time), 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def _given(*pairs: tuple[str, Any]) -> list[str]:
    """Return the options that have a value."""
    return [word for flag, value in pairs if value for word in (flag, str(value))]


def _slurm(job: Job) -> list[str]:
    group = job.group
    wanted = _given(
        ("--mem", job.megabytes and f"{job.megabytes}M"), ("--partition", group.queue),
        ("--gres", group.gpus and f"gpu:{group.gpus}"), ("--time", job.minutes),
    )  # fmt: skip
    words = ["sbatch", "--wait", "--job-name", job.name, "--output", str(job.output), "--open-mode", "append"]
    return [*words, "--ntasks", "1", "--cpus-per-task", str(group.cores), *wanted, *group.options, str(job.script)]


def _lsf(job: Job) -> list[str]:
    group, memory = job.group, job.megabytes and f"{job.megabytes}MB"
    wanted = _given(
        ("-M", memory), ("-R", memory and f"rusage[mem={memory}]"), ("-q", group.queue),
        ("-gpu", group.gpus and f"num={group.gpus}"), ("-W", job.minutes),
    )  # fmt: skip
    words = ["bsub", "-K", "-J", job.name, "-o", str(job.output), "-n", str(group.cores), "-R", "span[hosts=1]"]
    return [*words, *wanted, *group.options, "bash", str(job.script)]


def _pbs(job: Job) -> list[str]:
    group = job.group
    chunk = f"select=1:ncpus={group.cores}"
    chunk += f":mem={job.megabytes}mb" if job.megabytes else ""
    chunk += f":ngpus={group.gpus}" if group.gpus else ""
    wanted = _given(("-l", job.clock and f"walltime={job.clock}"), ("-q", group.queue))
    words = ["qsub", "-W", "block=true", "-N", job.name, "-j", "oe", "-o", str(job.output), "-l", chunk]
    return [*words, *wanted, *group.options, str(job.script)]


def _sge(job: Job) -> list[str]:
    group = job.group
    wanted = _given(
        ("-pe", group.cores > 1 and "smp"), ("-q", group.queue), ("-l", job.clock and f"h_rt={job.clock}"),
        ("-l", job.megabytes and f"h_vmem={-(-job.megabytes // group.cores)}M"),  # requested per core
        ("-l", group.gpus and f"gpu={group.gpus}"),
    )  # fmt: skip
    if group.cores > 1:
        wanted.insert(2, str(group.cores))
    words = ["qsub", "-sync", "y", "-N", job.name, "-j", "y", "-o", str(job.output), "-S", "/bin/bash"]
    return [*words, *wanted, *group.options, str(job.script)]


def _condor(job: Job) -> list[str]:
    """Return a shell command: HTCondor takes a file, and the exit status is in the job's log."""
    group, log = job.group, job.script.with_suffix(".condor")
    lines = [
        f"executable={job.script}", f"output={job.output}", f"error={job.output}", f"log={log}", "stream_output=True",
        "stream_error=True", f"batch_name={job.name}", f"request_cpus={group.cores}",
        *([f"request_memory={job.megabytes}"] if job.megabytes else []),
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


def _oar(job: Job) -> list[str]:
    """Return a shell command: OAR does not wait, so the job is polled until it has ended."""
    group = job.group
    resources = f"/nodes=1/gpu={group.gpus}" if group.gpus else f"/nodes=1/core={group.cores}"
    resources += f",walltime={job.clock}" if job.clock else ""
    words = ["oarsub", "-n", job.name, "-l", resources, "-O", str(job.output), "-E", str(job.output)]
    submit = shlex.join([*words, *_given(("-q", group.queue)), *group.options, str(job.script)])
    return [
        "sh", "-c",
        f'said=$({submit}); status=$?; echo "$said"; [ $status = 0 ] || exit $status\n'
        'id=$(echo "$said" | sed -n "s/^OAR_JOB_ID=//p")\n'
        'while state=$(oarstat -s -j "$id") && ! echo "$state" | grep -qE "Terminated|Error"; do sleep 2; done\n'
        'echo "$state" | grep -q Terminated',
    ]  # fmt: skip


@dataclass(frozen=True)
class Queue:
    """A batch queue.

    Attributes:
        program: Program that submits a job.
        submit: Returns the command that submits a job and waits for its end.
        cancel: Command that ends a job; ``{name}`` is its name, ``{log}`` the file with the output of ``submit``.
        account: Option for an account or project.
    """

    program: str
    submit: Callable[[Job], list[str]]
    cancel: str
    account: str


QUEUES = {
    "slurm": Queue("sbatch", _slurm, "scancel --name {name}", "--account="),
    "lsf": Queue("bsub", _lsf, "bkill -J {name}", "-P "),
    "pbs": Queue("qsub", _pbs, "qdel $(grep -o '^[0-9][^ ]*' {log} | tail -n 1)", "-A "),
    "sge": Queue("qsub", _sge, "qdel {name}", "-P "),
    "htcondor": Queue(
        "condor_submit", _condor, "condor_rm -constraint 'JobBatchName == \"{name}\"'", "accounting_group="
    ),
    "oar": Queue("oarsub", _oar, "oardel $(sed -n 's/^OAR_JOB_ID=//p' {log} | tail -n 1)", "--project="),
}


class QueueLauncher(Launcher):
    """Submits a job for each worker; jobs are cancelled by their name, which is known before the queue has an id."""

    def __init__(self, group: WorkerGroup, folder: Path) -> None:
        super().__init__(group, folder)
        self._queue = QUEUES[group.launcher]
        self.program = self._queue.program

    def start(self, name: str, index: int) -> Started:
        """Submit a job; see ``Launcher.start``."""
        output = self.folder / f"{name}.out"
        job = Job(self.group, f"b{self.folder.name}-{name}", self.write_script(name), output)
        log = shlex.quote(str(self.folder / f"{name}.log"))
        cancel = self._queue.cancel.replace("{name}", job.name).replace("{log}", log)
        return self.run(name, self._queue.submit(job), cancel=["/bin/sh", "-c", cancel], output=output)
