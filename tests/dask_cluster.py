"""A Dask cluster that stands already: a scheduler and workers, started as their owner would."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil


class Standing:
    """A scheduler, and the workers that are added.

    Args:
        folder: Current directory of them all.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + 120
        while not self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.address = str(json.loads(self.file.read_text())["address"])

    def start(self, kind: str, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, "--no-dashboard"]
        command += ["--dashboard-address", "127.0.0.1:0"]
        process = subprocess.Popen(
            command, cwd=self._folder, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process

    def add_worker(self, threads: int = 1, **environment: str) -> None:
        """Start a worker with a nanny, which replaces it when it dies."""
        self.start("worker", self.address, "--nthreads", str(threads), "--host", "127.0.0.1", **environment)

    def end(self) -> None:
        while self._processes:
            process = self._processes.pop()
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()
