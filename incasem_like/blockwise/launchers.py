"""Ways to start a worker: on this machine, by a batch queue, by any command; a new one is an entry of ``LAUNCHERS``.

Each is a command that lasts as long as the worker and returns its exit status. That of a queue waits for the job's end
and prints the queue's messages.
"""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import incasem_like

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import WorkerGroup

CONNECTION = "connection.json"  # in the job's folder: the scheduler's address, and the key that workers present
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
MEGABYTE = 2**20


@dataclass(frozen=True)
class WorkerJob:
    """A worker to start.

    Attributes:
        group: The resources it needs.
        index: Its number within the group.
        name: Its name within the call.
        folder: The call's folder, where workers find their scripts and the scheduler's address.
    """

    group: WorkerGroup
    index: int
    name: str
    folder: Path

    @property
    def unique_name(self) -> str:
        """Its name in a queue, by which it is cancelled: known before the queue has an id."""
        return f"b{self.folder.name}-{self.name}"

    @property
    def script(self) -> Path:
        """Shell script that becomes the worker."""
        return self.folder / f"{self.name}.sh"

    @property
    def log(self) -> Path:
        """File with the output of the command."""
        return self.folder / f"{self.name}.log"

    @property
    def output(self) -> Path:
        """File with the worker's output, where a queue writes it; the log then has the queue's messages."""
        return self.folder / f"{self.name}.out"

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

    def write_script(self) -> None:
        """Write the shell script; a set-up line that fails ends it and is named."""
        group, local = self.group, self.group.launcher == "local"
        exports = dict.fromkeys(THREAD_VARIABLES, str(group.cores))
        if local and group.gpus:
            exports["CUDA_VISIBLE_DEVICES"] = ",".join(visible_gpus()[self.index * group.gpus :][: group.gpus])
        package = str(Path(incasem_like.__file__).parents[1])
        path = f'export PYTHONPATH={shlex.quote(package)}"${{PYTHONPATH:+:$PYTHONPATH}}"'
        said = "set_up of the workers file failed with status $? at: $BASH_COMMAND"
        set_up = [f"trap 'echo \"{said}\" >&2' ERR", "set -e", *group.set_up, "set +e", "trap - ERR"]
        words = [group.python or sys.executable, "-m", "incasem_like.blockwise.worker_process", "--name", self.name]
        words += ["--connection", str(self.folder / CONNECTION), *(["--parent", str(os.getpid())] if local else [])]
        lines = [
            "#!/bin/bash",
            *[f"export {variable}={shlex.quote(value)}" for variable, value in exports.items()],
            # OpenMP's threads do not spin while they wait, unless the user's environment says so.
            'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"',
            *([] if group.python else [path]),
            *(set_up if group.set_up else []),
            f"cd {shlex.quote(os.getcwd())} || exit 1",
            f"exec {shlex.join(words)}",
        ]
        self.script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.script.chmod(0o700)


def _given(*pairs: tuple[str, Any]) -> list[str]:
    """Return the options that have a value."""
    return [word for flag, value in pairs if value for word in (flag, str(value))]


def _local(job: WorkerJob) -> list[str]:
    return ["bash", str(job.script)]


def _command(job: WorkerJob) -> list[str]:
    template = job.group.command or "{command}"
    command = template.replace("{command}", shlex.join(["bash", str(job.script)])).replace("{name}", job.name)
    return ["/bin/sh", "-c", command]


def _slurm(job: WorkerJob) -> list[str]:
    group = job.group
    wanted = _given(
        ("--mem", job.megabytes and f"{job.megabytes}M"), ("--partition", group.queue),
        ("--gres", group.gpus and f"gpu:{group.gpus}"), ("--time", job.minutes),
    )  # fmt: skip
    words = ["sbatch", "--wait", "--job-name", job.unique_name, "--output", str(job.output), "--open-mode", "append"]
    return [*words, "--ntasks", "1", "--cpus-per-task", str(group.cores), *wanted, *group.options, str(job.script)]


def _lsf(job: WorkerJob) -> list[str]:
    group, memory = job.group, job.megabytes and f"{job.megabytes}MB"
    wanted = _given(
        ("-M", memory), ("-R", memory and f"rusage[mem={memory}]"), ("-q", group.queue),
        ("-gpu", group.gpus and f"num={group.gpus}"), ("-W", job.minutes),
    )  # fmt: skip
    words = ["bsub", "-K", "-J", job.unique_name, "-o", str(job.output), "-n", str(group.cores), "-R", "span[hosts=1]"]
    return [*words, *wanted, *group.options, "bash", str(job.script)]


def _pbs(job: WorkerJob) -> list[str]:
    group = job.group
    chunk = f"select=1:ncpus={group.cores}"
    chunk += f":mem={job.megabytes}mb" if job.megabytes else ""
    chunk += f":ngpus={group.gpus}" if group.gpus else ""
    wanted = _given(("-l", job.clock and f"walltime={job.clock}"), ("-q", group.queue))
    words = ["qsub", "-W", "block=true", "-N", job.unique_name, "-j", "oe", "-o", str(job.output), "-l", chunk]
    return [*words, *wanted, *group.options, str(job.script)]


def _sge(job: WorkerJob) -> list[str]:
    group = job.group
    wanted = _given(
        ("-q", group.queue), ("-l", job.clock and f"h_rt={job.clock}"),
        ("-l", job.megabytes and f"h_vmem={-(-job.megabytes // group.cores)}M"),  # requested per core
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


def _oar(job: WorkerJob) -> list[str]:
    """Return a shell command: OAR does not wait, so the job is polled until it has ended."""
    group = job.group
    resources = f"/nodes=1/gpu={group.gpus}" if group.gpus else f"/nodes=1/core={group.cores}"
    resources += f",walltime={job.clock}" if job.clock else ""
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
        account: Option of that program for an account or project.
    """

    command: Callable[[WorkerJob], list[str]]
    program: str | None = None
    cancel: str = ""
    account: str = ""


LAUNCHERS = {
    "local": Launcher(_local),
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
