"""``workers.yaml``: which workers to start, and how they and the scheduler find each other; checked before any work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from incasem_like.blockwise.job import jobs_directory
from incasem_like.blockwise.launchers import LAUNCHERS, QUEUES, Duration, WorkerGroup, visible_gpus
from incasem_like.config.kinds import Count, Text, Words
from incasem_like.config.reading import read_keys
from incasem_like.config.section import Document
from incasem_like.disk import check_writable
from incasem_like.errors import ConfigError, InputError

JOBQUEUE_KEYS = {
    "cores": "cores", "memory": "memory", "queue": "queue", "walltime": "time", "job-script-prologue": "set_up",
    "python": "python",
}  # fmt: skip
LOOPBACK = "127.0.0.1"
MOST_WORKERS_PER_CORE = 4
SECONDS_TO_CONNECT = 20.0
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
    """All workers of a call: groups to start, or those of an existing Dask cluster."""

    groups: tuple[WorkerGroup, ...] = ()
    scheduler: SchedulerSection = field(default_factory=SchedulerSection)
    dashboard: bool = False  # whether Dask's pages are shown
    cluster: str | None = None  # address of the existing cluster

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
    from dask import config, utils

    said = config.get(f"jobqueue.{values['launcher']}", None) or {}
    found = {name.replace("_", "-"): value for name, value in said.items() if value}
    known = {key: found[name] for name, key in JOBQUEUE_KEYS.items() if name in found}
    if "memory" in known:  # in Dask, 16GB means 10**9 bytes each
        known["memory"] = f"{-(-utils.parse_bytes(known['memory']) // 2**20)}MiB"
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
    """Check, as far as this machine can, that workers are able to start, or raise the first of ``worker_problems``."""
    for problem in worker_problems(workers):
        raise problem


def worker_problems(workers: Workers) -> Iterator[InputError]:
    """Yield an error for each obstacle: missing programs, too few GPUs, an address of another machine."""
    if workers.cluster is not None:
        host, _, number = workers.cluster.partition("://")[2].rstrip("/").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(number)), timeout=SECONDS_TO_CONNECT).close()
        except (OSError, OverflowError) as error:
            yield InputError(
                f"There is no Dask scheduler at {workers.cluster} ({getattr(error, 'strerror', None) or error}): "
                "start it, or correct the address."
            )
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
        try:  # a file there tells workers where their scheduler is
            check_writable(jobs_directory() / "job", "set INCASEM_JOBS to a folder that all workers' machines see")
        except InputError as error:
            yield error
        address, port = workers.scheduler.listen or LOOPBACK, workers.scheduler.port
        try:
            socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET).close()
        except OSError as error:
            reason = (error.strerror or str(error)).split(" (while ")[0]  # Python appends the address as a tuple
            yield InputError(
                f"The scheduler cannot listen on {address} port {port} ({reason}): set scheduler.listen "
                "in the workers file to an address of this machine, and another port or none."
            )
