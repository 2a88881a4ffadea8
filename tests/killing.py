"""Kill -9 of scripts that work on blocks: of a worker, of the scheduler, or both, after some progress."""

import contextlib
import functools
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

# Python imports a module of this name when it starts. In workers it makes each block take a moment for as long as the
# file beside it is there, so that however fast the blocks and slow the killer, there is work left to be killed at.
SITECUSTOMIZE = """
import sys
import time
from pathlib import Path

if "incasem_like.blockwise.worker_process" in sys.orig_argv:
    from incasem_like.blockwise.worker import Worker

    def read(self, number, read=Worker.read):
        if Path(__file__).with_name("kills_to_come").exists():
            time.sleep(0.05)
        return read(self, number)

    Worker.read = read
"""


def log_lines(folder: Path) -> int:
    """Count the lines of all logs of blocks below a folder, that of an output not known beforehand included."""
    total = 0
    for place, _folders, names in os.walk(folder):  # which takes it calmly that folders go while it looks
        if ".blocks.jsonl" in names:
            with contextlib.suppress(FileNotFoundError):  # removed since, as the work is done
                total += len((Path(place) / ".blocks.jsonl").read_bytes().splitlines())
    return total


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.005)


def works(process: psutil.Process) -> bool:
    """Tell whether a process is a worker that has not ended."""
    try:
        is_worker = any("worker_process" in word for word in process.cmdline())
        return is_worker and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


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
    slow = cwd / ".slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (slow / "kills_to_come").touch()
    running = _start(command, cwd, slow)
    for whom in kills:
        workers = _workers_after_progress(running, folder, progress)
        if whom != "scheduler":
            _kill_one(workers)
        if whom != "worker":
            running.kill()
            running.communicate()
            wait_for(functools.partial(_all_gone, workers))
            running = _start(command, cwd, slow)
    (slow / "kills_to_come").unlink()
    told, said = running.communicate(timeout=120)
    return subprocess.CompletedProcess(command, running.returncode, told, said)


def _workers_after_progress(running: "subprocess.Popen[str]", folder: Path, progress: int) -> list[psutil.Process]:
    wanted = log_lines(folder) + progress
    wait_for(lambda: running.poll() is not None or log_lines(folder) >= wanted)
    assert running.poll() is None, f"it was done before it could be killed: {running.communicate()}"
    workers = psutil.Process(running.pid).children(recursive=True)
    assert any(map(works, workers)), "nothing but the scheduler runs"
    return workers


def _kill_one(workers: Sequence[psutil.Process]) -> None:
    for worker in filter(works, workers):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
            worker.kill()
            return
    raise AssertionError("no worker was left to be killed")


def _all_gone(workers: Sequence[psutil.Process]) -> bool:
    return not any(map(works, workers))


def _start(command: Sequence[str], cwd: Path, slow: Path) -> "subprocess.Popen[str]":
    path = os.pathsep.join(filter(None, [str(slow), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
