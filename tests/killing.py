"""Kill -9 of scripts that work on blocks: of a worker, of the scheduler, or both, after some progress."""

import contextlib
import functools
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil


def log_lines(folder: Path) -> int:
    """Count the lines of all logs of blocks below a folder, that of an output not known beforehand included."""
    total = 0
    for place, _folders, names in os.walk(folder):  # which takes it calmly that folders go while it looks
        if ".blocks.jsonl" in names:
            with contextlib.suppress(FileNotFoundError):  # removed since, as the work is done
                total += len((Path(place) / ".blocks.jsonl").read_bytes().splitlines())
    return total


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.005)


def run_killed(
    command: Sequence[str], kills: Sequence[str], folder: Path, cwd: Path, progress: int = 15
) -> "subprocess.CompletedProcess[str]":
    """Run a command, and kill -9 after so much progress each time; the same command again after its own end.

    Args:
        command: To run.
        kills: Whom to kill, in turn: ``"worker"``, ``"scheduler"`` or ``"both"``.
        folder: Below which the log of blocks is.
        cwd: Where to run.
        progress: Lines of the log that are waited for before each kill.

    Returns:
        The last call, which was left to end.
    """
    running = _start(command, cwd)
    for whom in kills:
        workers = _workers_after_progress(running, folder, progress)
        if whom != "scheduler":
            next(worker for worker in workers if _works(worker)).kill()
        if whom != "worker":
            running.kill()
            running.communicate()
            wait_for(functools.partial(_all_gone, workers))
            running = _start(command, cwd)
    told, said = running.communicate(timeout=90)
    return subprocess.CompletedProcess(command, running.returncode, told, said)


def _workers_after_progress(running: "subprocess.Popen[str]", folder: Path, progress: int) -> list[psutil.Process]:
    wanted = log_lines(folder) + progress
    wait_for(lambda: running.poll() is not None or log_lines(folder) >= wanted)
    assert running.poll() is None, f"it was done before it could be killed: {running.communicate()}"
    workers = psutil.Process(running.pid).children(recursive=True)
    assert any(map(_works, workers)), "nothing but the scheduler runs"
    return workers


def _all_gone(workers: Sequence[psutil.Process]) -> bool:
    return not any(map(_works, workers))


def _works(process: psutil.Process) -> bool:
    try:
        is_worker = any("worker_process" in word for word in process.cmdline())
        return is_worker and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _start(command: Sequence[str], cwd: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
