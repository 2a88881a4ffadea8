"""Checks for everything that would keep workers from starting, made before any work begins."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from incasem_like.blockwise.job import jobs_directory
from incasem_like.blockwise.launchers import LAUNCHERS, Place
from incasem_like.blockwise.workers_file import LOOPBACK, Workers, load_workers
from incasem_like.errors import InputError

MOST_WORKERS_PER_CORE = 4
SECONDS_TO_CONNECT = 20.0


def usable_workers(source: Path | str | None) -> Workers | None:
    """Read which workers to use, and check, as far as this machine can, that they are able to start.

    Args:
        source: As for ``load_workers``; None where no workers are asked for.

    Raises:
        ConfigError: As ``load_workers``.
        InputError: They cannot start; the first of ``worker_problems``.
    """
    if source is None:
        return None
    workers = load_workers(source)
    for problem in worker_problems(workers):
        raise problem
    return workers


def worker_problems(workers: Workers) -> Iterator[InputError]:
    """Yield an error for each obstacle: missing programs, too few GPUs, an address of another machine."""
    if workers.cluster is not None:
        yield from _unreachable(workers.cluster)
        return
    launchers = [LAUNCHERS[group.launcher](group, Place(Path()), group.launcher) for group in workers.groups]
    for launcher in launchers:
        program = launcher.program
        if program is not None and shutil.which(program) is None:
            yield InputError(
                f"Workers are to be started by {launcher.group.launcher}, but the program {program} is missing here: "
                "run this on a machine that can submit jobs."
            )
    for launcher in launchers:
        group = launcher.group
        if launcher.local and group.python is not None and shutil.which(group.python) is None:
            yield InputError(
                f"python in the workers file is {group.python}, but this program does not exist: correct it."
            )
        if (missing := _missing_program(group.command)) is not None:
            yield InputError(
                f"command in the workers file begins with {missing}, but this program does not exist here: correct it, "
                "or run this where it is installed."
            )
        try:
            _ = launcher.count
        except InputError as problem:
            yield problem
    cores, local = len(os.sched_getaffinity(0)), sum(one.group.count or 1 for one in launchers if one.local)
    if local > MOST_WORKERS_PER_CORE * cores:
        yield InputError(
            f"{local} workers are to run on this machine, but it has {cores} cores: reduce count in the workers file."
        )
    if not all(launcher.local for launcher in launchers):
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
            yield cannot_listen(address, port, error)


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


def _missing_program(command: str | None) -> str | None:
    """Return the first word of a command if the shell finds no program of that name; None where that is uncertain."""
    word = re.match(r"\s*([\w./+-]+)(?=\s)", command or "")
    if word is None:  # a variable, quotes, the worker itself: only the shell can resolve it
        return None
    known = subprocess.run(["/bin/sh", "-c", 'command -v -- "$0"', word[1]], capture_output=True, check=False)
    return None if known.returncode == 0 else word[1]


def cannot_listen(address: str, port: int, error: OSError) -> InputError:
    """Return the error for an address that the scheduler cannot listen on."""
    reason = (error.strerror or str(error)).split(" (while ")[0]  # Python appends the address as a tuple
    return InputError(
        f"The scheduler cannot listen on {address} port {port} ({reason}): set scheduler.listen "
        "in the workers file to an address of this machine, and another port or none."
    )
