"""Child processes that ignore ctrl-C, which this process handles for them, and that end with it; those that a launcher
starts together; memory."""

from __future__ import annotations

import ctypes
import json
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import psutil

BAD_INPUT = 2
INTERRUPTED = (130, 143, 129)  # Ctrl-C, SIGTERM, SIGHUP
PRELOADED = ["incasem_like.volumes"]
# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER_TRIM = 2**31 - 1
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start the server that forks processes, once, and return the context to start them with.

    While it imports, a server would die of the ctrl-C that reaches the whole process group, and a process that was
    just forked would print a traceback: both inherit a signal mask that blocks SIGINT.

    Args:
        preload: Modules that the server loads before it forks, so that each process starts quickly. TensorStore
            does not survive a fork, so none of them may open a volume.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    resource_tracker.ensure_running()  # starting it unblocks SIGINT, and the server's start includes it
    with deaf_to_interrupts():
        forkserver.ensure_running()
    return context


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes started inside inherit a signal mask that blocks ctrl-C: this process handles it for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def process_pool(
    count: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes for the duration of a ``with`` block; an error or ctrl-C inside ends them at once.

    Args:
        count: Number of processes.
        initializer: Called in each process before its first work.
        initargs: Arguments of ``initializer``.
    """
    earlier = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        count, mp_context=fork_server(PRELOADED), initializer=_begin, initargs=(initializer, initargs)
    )
    try:
        yield pool
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - earlier:
            child.terminate()


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Wait for the parent's end, then exit: otherwise a process of a killed parent would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


# A script whose parent is killed must end, or it would still hold its run when the parent is started again (Linux;
# elsewhere it works on, and its run is not resumed until it is done).
_STARTER = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


def run_script_process(command: Sequence[str], log: Path, holder: Path | None = None) -> int:
    """Run a script in a process that is interrupted with this one, and return its exit status.

    Args:
        command: The words of the command, the interpreter first.
        log: File that its output is appended to.
        holder: File to write its process id and start time to, JSON; None for none.
    """
    with open(log, "ab") as output:
        starter = [sys.executable, "-c", _STARTER, *command]
        process = subprocess.Popen(starter, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            if holder is not None:
                holder.write_text(json.dumps([process.pid, psutil.Process(process.pid).create_time()]))
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)  # a training writes a checkpoint
            process.wait()
            raise


def started_processes() -> tuple[int, int]:
    """Return the number of this process and how many a launcher started together: (0, 1) without one.

    Slurm's variables are translated to those that torch reads. Those of an allocation alone do not count: its script
    is one process.

    Example:
        >>> started_processes()
        (0, 1)
    """
    known = os.environ
    if "RANK" not in known and int(known.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        from lightning_fabric.plugins.environments import SLURMEnvironment

        nodes = known.get("SLURM_STEP_NODELIST") or known["SLURM_NODELIST"]
        known.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
        known.setdefault("MASTER_PORT", str(20_000 + int(known["SLURM_JOB_ID"]) % 10_000))  # of no other job there
        known.update(RANK=known["SLURM_PROCID"], WORLD_SIZE=known["SLURM_STEP_NUM_TASKS"])
        known.update(LOCAL_RANK=known["SLURM_LOCALID"])
    return int(known.get("RANK", 0)), int(known.get("WORLD_SIZE", 1))


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory of large arrays for reuse; costs about a third more resident memory.

    It otherwise returns that of arrays and tensors to the kernel, which maps it anew, page by page.

    Returns:
        Whether the C library supports it: glibc on Linux does, elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))


def available_host_memory() -> float:
    """Return how many bytes this process can still take: of the machine and of what its control groups allow."""
    return float(min([psutil.virtual_memory().available, *cgroup_memory_left()]))


def cgroup_memory_left(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Iterator[int]:
    """Yield what each control group with a limit leaves: containers and queues limit memory in this way.

    Pages of files that can be dropped at once do not count as used.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = root / "memory" if controllers else root
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        inside = tree / path.lstrip("/")
        # Within a container the path is often one of the host, and the container's own group is the root.
        for folder in [inside, *inside.parents]:
            left = _left(folder, limit, used)
            if left is not None:
                yield left
            if folder == tree:
                break


def _left(folder: Path, limit: str, used: str) -> int | None:
    try:
        allowed = (folder / limit).read_text().strip()
        if allowed == "max":
            return None
        taken = int((folder / used).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    droppable = int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))
    return max(0, int(allowed) - max(0, taken - droppable))
