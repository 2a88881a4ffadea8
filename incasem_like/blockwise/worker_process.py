"""A worker process: ``python -m incasem_like.blockwise.worker_process``, on this machine or another one.

It is a Dask worker that reads the address of its scheduler, and the certificate for mutual TLS, from a file that only
its owner can read. It ends with the scheduler. If the scheduler was killed, it looks for the next one for some time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from distributed import Worker

LOST, TIMED_OUT, BROKEN = 3, 4, 6  # exit statuses: why the worker ended
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_BETWEEN_ATTEMPTS = 1.0
SECONDS_TO_CONNECT = 20.0
QUIET = {  # Dask profiles itself fifty times a second, which would slow short blocks
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
}
SETTINGS = {
    **QUIET,
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.use-file-locking": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "logging": {"distributed": "critical"},
}


def main() -> NoReturn:
    """Read the command line and work until the scheduler ends."""
    parser = argparse.ArgumentParser(description="Run blocks that a Dask scheduler hands out.")
    parser.add_argument("--name", required=True, help="name of this worker, for messages")
    parser.add_argument("--connection", type=Path, required=True, help="file with the scheduler's address and key")
    parser.add_argument("--reconnect", type=float, default=0.0, help="seconds to look for a lost scheduler")
    parser.add_argument("--child", action="store_true", help="end with the process that started this one")
    parser.add_argument("--again", action="store_true", help="a scheduler was there and was lost")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the scheduler answers ctrl-C
    process = WorkerProcess(arguments)
    asyncio.run(process.work(process.find_scheduler()))
    process.end()


class WorkerProcess:
    """A worker process from start to exit.

    Args:
        arguments: The parsed command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._connection: Path = arguments.connection
        self._parent = os.getppid() if arguments.child else None
        self._leaving = False

    def find_scheduler(self) -> dict[str, Any]:
        """Return the scheduler's address once it can be reached; end the process if that takes too long."""
        began, said = time.monotonic(), False
        while True:
            # Read anew each time: a scheduler that was killed and started again listens elsewhere, with another key.
            try:
                known: dict[str, Any] = json.loads(self._connection.read_text())
                host, port = known["host"], int(known["port"])
                socket.create_connection((host, port), timeout=SECONDS_TO_CONNECT).close()
                return known
            except FileNotFoundError as error:
                if self._arguments.again:  # a scheduler that ends normally removes it
                    os._exit(LOST)
                reason = str(error)
            except OSError as error:
                reason = f"{host} port {port}, {error.strerror or error}"
            elapsed = time.monotonic() - began
            if elapsed > self._arguments.reconnect:
                _print(f"The scheduler was not reached for {elapsed:.0f} s, so this worker ends: {reason}.")
                os._exit(LOST)
            if not said:
                _print(f"The scheduler cannot be reached, tried again for {self._arguments.reconnect:g} s: {reason}.")
                said = True
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)

    async def work(self, known: dict[str, Any]) -> None:
        """Work for a scheduler until it, or this process, ends."""
        import dask.config

        dask.config.set(SETTINGS)
        from distributed import Security, Worker
        from distributed.utils import get_ip

        host, port = known["host"], int(known["port"])
        ip = get_ip(host, port)  # of the interface that leads to the scheduler
        key, certificate = known["key"], known["certificate"]
        worker = Worker(
            known["address"],
            security=Security(
                tls_ca_file=certificate, tls_worker_cert=certificate, tls_worker_key=key, require_encryption=True
            ),
            nthreads=known["threads"],
            name=f"{self._arguments.name}.{secrets.token_hex(3)}",  # the scheduler may still know a lost connection
            host=f"[{ip}]" if ":" in ip else ip,
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # TensorStore's cache would count, and get the worker paused or killed
            local_directory=str(self._connection.parent / "scratch"),
            death_timeout=SECONDS_TO_CONNECT,
        )
        threading.Thread(target=self._watch, args=(worker,), name="watch", daemon=True).start()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._on_sigterm, worker)
        try:
            await worker
            await worker.finished()
        except Exception as error:
            _print(f"The scheduler at {host} port {port} was not joined: {type(error).__name__}: {error}")
            await asyncio.sleep(SECONDS_BETWEEN_ATTEMPTS)

    def end(self) -> NoReturn:
        """End the process, or restart it to look for the next scheduler."""
        if self._leaving:
            os._exit(0)
        if self._parent is not None or not self._arguments.reconnect:
            os._exit(LOST)
        again = [] if self._arguments.again else ["--again"]
        os.execv(sys.executable, [sys.executable, "-m", "incasem_like.blockwise.worker_process", *sys.argv[1:], *again])

    def _watch(self, worker: Worker) -> None:
        """End with the scheduler even during a long block, for which Dask would wait."""
        from distributed import Status

        while True:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if self._parent is not None and os.getppid() != self._parent:
                os._exit(LOST)
            if not self._connection.exists():
                os._exit(LOST)
            if worker.status in (Status.closing, Status.closed, Status.failed) and not self._leaving:
                self.end()

    def _on_sigterm(self, worker: Worker) -> None:
        """Finish the current block and leave the rest to others: a queue that wants its machine back sends SIGTERM."""
        from incasem_like.blockwise.dask_task import LEAVING

        LEAVING.set()
        if not self._leaving:
            self._leaving = True
            self._last = asyncio.ensure_future(self._leave(worker))

    async def _leave(self, worker: Worker) -> None:
        while worker.state.executing_count:
            await asyncio.sleep(0.02)
        await worker.close_gracefully()
        os._exit(0)


def _print(words: str) -> None:
    """Write to the worker's log, whose last lines the scheduler shows."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
