"""``workers.yaml``: which workers to start, and how they and the scheduler find each other; checked before any work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import string
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from incasem_like.blockwise.job import jobs_directory
from incasem_like.blockwise.launchers import LAUNCHERS, QUEUES, visible_gpus
from incasem_like.config.kinds import Count, Positive, Text, Words, contradiction
from incasem_like.config.reading import read_keys
from incasem_like.config.section import Document
from incasem_like.errors import ConfigError, InputError

JOBQUEUE_KEYS = {
    "cores": "cores", "memory": "memory", "queue": "queue", "walltime": "time", "job-script-prologue": "set_up",
    "python": "python",
}  # fmt: skip
LOOPBACK = "127.0.0.1"
MOST_WORKERS_PER_CORE = 4
SECONDS_TO_CONNECT = 20.0
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


Port = Annotated[Count, Field(le=65535), Words("a port number from 0 to 65535")]


class SchedulerSection(Document):
    """The section ``scheduler``: addresses and time limits."""

    listen: Text | None = Field(None, description="Address to listen on; null = 127.0.0.1. Not used by local workers.")
    port: Port = Field(0, description="Port to listen on; 0 = any free one.")
    advertise: Text | None = Field(None, description="Address that workers connect to; null = `listen`.")
    block_time_limit: Duration | None = Field(None, description="Time one block may take; null = the task's own.")
    silence: Duration = Field(180.0, description="A worker of another machine that is silent so long is given up.")
    worker_timeout: Duration | None = Field(None, description="Time the first worker may take; null = wait.")


@dataclass(frozen=True)
class Workers:
    """All workers of a call.

    Attributes:
        groups: Groups of equal workers to start; none where a cluster exists.
        scheduler: Where the scheduler listens, and its time limits.
        dashboard: Whether Dask's pages are shown.
        cluster: Address of an existing Dask cluster whose workers are used.
    """

    groups: tuple[WorkerGroup, ...] = ()
    scheduler: SchedulerSection = field(default_factory=SchedulerSection)
    dashboard: bool = False
    cluster: str | None = None

    @classmethod
    def local(cls, count: int) -> Workers:
        """Describe ``count`` workers on this machine, which share its cores."""
        count = max(1, count)
        return cls((WorkerGroup(count=count, cores=max(1, len(os.sched_getaffinity(0)) // count)),))


def load_workers(source: Path | str) -> Workers:
    """Read which workers to use.

    Args:
        source: A workers file: keys of one group, or a list of groups under ``workers``, and ``scheduler`` beside. Or
            an existing Dask cluster: its address, or the file that ``dask scheduler`` writes.

    Raises:
        ConfigError: It cannot be read, a key is unknown, a value wrong, or values contradict each other.
    """
    address, path = str(source), Path(source)
    if not re.match(r"\w+://", address):
        values = read_keys(path)
        if values.get("type") != "Scheduler" or "address" not in values:
            return _workers_of(values, path)
        address = str(values["address"])
    if not re.fullmatch(r"(tcp|tls|ws|wss)://\S+:\d+/?", address):
        raise ConfigError(
            f"{address} is not the address of a Dask scheduler: expected one such as tcp://10.0.0.5:8786 or "
            "tls://10.0.0.5:8786, or a file."
        )
    return Workers(cluster=address)


def _workers_of(values: dict[str, Any], path: Path) -> Workers:
    settings = values.pop("scheduler", None) or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(f"scheduler must be a mapping of keys, found {settings!r} in {path}.")
    scheduler = SchedulerSection.from_values(settings, lambda _key: f"under scheduler in {path}")
    if "workers" in values:
        entries = values.pop("workers")
        if values:
            raise ConfigError(
                f"{path} has the key '{next(iter(values))}' beside the list workers: move it into the list's entries."
            )
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
            raise ConfigError(f"workers in {path} must be a list of groups, each with keys such as launcher and count.")
        named = [(entry, f"in entry {number} of workers in {path}") for number, entry in enumerate(entries, start=1)]
    else:
        named = [(values, f"in {path}")]
    groups = tuple(_group(entry, where) for entry, where in named)
    for group in groups:
        if group.launcher in QUEUES and scheduler.listen is None:
            raise ConfigError(
                f"Workers of {group.launcher} run on other machines, so {path} must say where the scheduler listens "
                "for them: add scheduler: {listen: ADDRESS}, an address of this machine in the cluster's network."
            )
    return Workers(groups, scheduler)


def _group(values: Mapping[str, Any], where: str) -> WorkerGroup:
    return WorkerGroup.from_values({**_jobqueue_values(values), **values}, lambda _key: where)


def given_workers(arguments: Namespace) -> Workers | None:
    """Read and check the workers that ``--workers`` on a command line names; None without it.

    Raises:
        ConfigError: As ``load_workers``.
        InputError: They cannot start, see ``worker_problems``; or ``--dashboard`` is given without workers, or the
            package for its pages is missing.
    """
    workers = None if arguments.workers is None else load_workers(arguments.workers)
    if workers is not None:
        check_workers(workers)
    if not getattr(arguments, "dashboard", False):
        return workers
    if find_spec("bokeh") is None:
        raise InputError("--dashboard needs bokeh, which is not installed: pip install 'incasem-like[dashboard]'.")
    if workers is None:
        if not hasattr(arguments, "num_workers"):
            raise InputError("--dashboard shows what workers do, but there are none: add --workers.")
        workers = Workers.local(arguments.num_workers)
    return replace(workers, dashboard=True)


def _jobqueue_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the queue's settings from the user's dask-jobqueue configuration, which the workers file overrides."""
    if values.get("launcher") not in QUEUES:
        return {}
    import dask.config
    import dask.utils

    said = dask.config.get(f"jobqueue.{values['launcher']}", None) or {}
    found = {name.replace("_", "-"): value for name, value in said.items() if value}
    known = {key: found[name] for name, key in JOBQUEUE_KEYS.items() if name in found}
    if "memory" in known:  # in Dask, 16GB means 10**9 bytes each
        known["memory"] = f"{-(-dask.utils.parse_bytes(known['memory']) // 2**20)}MiB"
    accounts = [
        QUEUES[values["launcher"]].account + str(found[name]) for name in ("account", "project") if name in found
    ]
    extra = found.get("job-extra-directives") or found.get("job-extra") or ()
    if isinstance(extra, Mapping):
        extra = [f"{key}={value}" for key, value in extra.items()]
    options = [*accounts, *extra]
    if options:
        known["options"] = [word for option in options for word in shlex.split(option)]
    return known


def check_workers(workers: Workers) -> None:
    """Check, as far as this machine can, that workers are able to start.

    Raises:
        InputError: They are not; the first of ``worker_problems``.
    """
    for problem in worker_problems(workers):
        raise problem


def worker_problems(workers: Workers) -> Iterator[InputError]:
    """Yield an error for each obstacle: missing programs, too few GPUs, an address of another machine."""
    if workers.cluster is not None:
        yield from _unreachable(workers.cluster)
        return
    for group in workers.groups:
        program, gpus = LAUNCHERS[group.launcher].program, len(visible_gpus())
        if program is not None and shutil.which(program) is None:
            yield InputError(
                f"Workers are to be started by {group.launcher}, but the program {program} is missing here: "
                "run this on a machine that can submit jobs."
            )
        if group.launcher == "local" and group.number * group.gpus > gpus:
            yield InputError(
                f"{group.number} workers with {group.gpus} GPUs each are asked for, but this machine shows {gpus}: "
                "reduce count or gpus in the workers file."
            )
    cores, local = len(os.sched_getaffinity(0)), sum(one.number for one in workers.groups if one.launcher == "local")
    if local > MOST_WORKERS_PER_CORE * cores:
        yield InputError(
            f"{local} workers are to run on this machine, but it has {cores} cores: reduce count in the workers file."
        )
    if any(group.launcher != "local" for group in workers.groups):
        records = jobs_directory()
        there = next(folder for folder in [records, *records.parents] if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            yield InputError(
                f"Workers find their scheduler by a file in {records}, but nothing can be written there: set "
                "INCASEM_JOBS to a folder that all their machines see."
            )
        address, port = workers.scheduler.listen or LOOPBACK, workers.scheduler.port
        try:
            socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
        except OSError as error:
            reason = (error.strerror or str(error)).split(" (while ")[0]  # Python appends the address as a tuple
            yield InputError(
                f"The scheduler cannot listen on {address} port {port} ({reason}): set scheduler.listen "
                "in the workers file to an address of this machine, and another port or none."
            )


def _unreachable(address: str) -> Iterator[InputError]:
    """Yield an error if nothing listens at the address of a cluster."""
    host, _, port = address.partition("://")[2].rstrip("/").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        yield InputError(
            f"There is no Dask scheduler at {address} ({getattr(error, 'strerror', None) or error}): start it, or "
            "correct the address."
        )
