"""A worker process: ``python -m incasem_like.blockwise.worker_process``, on this machine or another one.

It is a Dask worker that reads the address of its scheduler, and the certificate for mutual TLS, from a file that only
its owner can read. It ends with the scheduler, or when the scheduler removes that file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import dask.config
from distributed import Security, Status, Worker
from distributed.utils import get_ip

from incasem_like.blockwise.dask_task import LEAVING
from incasem_like.blockwise.worker import LOST

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_ATTEMPTS = 0.25, 1.0
SECONDS_UNTIL_WRITTEN = 0.02  # between looks for the scheduler's address
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
}


def silence_dask() -> None:
    """Keep the messages of Dask's libraries off the terminal and the workers' logs: users read our own."""
    for name in ("distributed", "distributed.client", "bokeh", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def main() -> NoReturn:
    """Read the command line and work until the scheduler ends."""
    parser = argparse.ArgumentParser(description="Run blocks that a Dask scheduler hands out.")
    parser.add_argument("--name", required=True, help="name of this worker, for messages")
    parser.add_argument("--connection", type=Path, required=True, help="file with the scheduler's address and key")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds to try to reach the scheduler")
    parser.add_argument("--parent", type=int, help="process id of the parent, with which this process ends")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the scheduler answers ctrl-C
    dask.config.set(SETTINGS)
    silence_dask()
    asyncio.run(work(arguments, find_scheduler(arguments)))
    os._exit(0 if LEAVING.is_set() else LOST)


def find_scheduler(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the scheduler's address once it can be reached; end the process if that takes too long."""
    began, said, reason = time.monotonic(), False, ""
    while True:
        end_without_scheduler(arguments)
        try:
            known: dict[str, Any] = json.loads(arguments.connection.read_text())
            reason = f"{known['host']} port {known['port']}, "
            socket.create_connection((known["host"], known["port"]), timeout=SECONDS_TO_CONNECT).close()
            return known
        except ValueError:
            reason, pause = "it has not written its address", SECONDS_UNTIL_WRITTEN
        except OSError as error:
            reason, pause = reason + (error.strerror or str(error)), SECONDS_BETWEEN_ATTEMPTS
            if not said:
                log(f"The scheduler cannot be reached, tried again for {arguments.patience:g} s: {reason}.")
                said = True
        elapsed = time.monotonic() - began
        if elapsed > arguments.patience:
            log(f"The scheduler was not reached for {elapsed:.0f} s, so this worker ends: {reason}.")
            os._exit(LOST)
        time.sleep(pause)


async def work(arguments: argparse.Namespace, known: Mapping[str, Any]) -> None:
    """Work for a scheduler until it, or this process, ends."""
    host, port, certificate = known["host"], known["port"], known["certificate"]
    ip = get_ip(host, port)  # of the interface that leads to the scheduler
    worker = Worker(
        known["address"],
        security=Security(
            tls_ca_file=certificate, tls_worker_cert=certificate, tls_worker_key=known["key"], require_encryption=True
        ),
        nthreads=known["threads"],
        name=f"{arguments.name}.{secrets.token_hex(3)}",  # the scheduler may still know a lost connection
        host=f"[{ip}]" if ":" in ip else ip,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
        memory_limit=0,  # TensorStore's cache would count, and get the worker paused or killed
        local_directory=str(arguments.connection.parent / "scratch"),
        death_timeout=SECONDS_TO_CONNECT,
    )
    threading.Thread(target=watch, args=(arguments, worker), name="watch", daemon=True).start()
    preempted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, preempted.set)
    try:
        await worker
        leaving = asyncio.create_task(leave(worker, preempted))
        await worker.finished()
        leaving.cancel()
    except Exception as error:
        log(f"The scheduler at {host} port {port} was not joined: {type(error).__name__}: {error}")
        await asyncio.sleep(SECONDS_BETWEEN_ATTEMPTS)


def watch(arguments: argparse.Namespace, worker: Worker) -> None:
    """End with the scheduler even during a long block, for which Dask would wait."""
    while True:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        end_without_scheduler(arguments)
        if worker.status in (Status.closing, Status.closed, Status.failed) and not LEAVING.is_set():
            os._exit(LOST)


def end_without_scheduler(arguments: argparse.Namespace) -> None:
    """End when the scheduler has removed its file, or the parent has ended, perhaps before this process looked."""
    if not arguments.connection.exists() or arguments.parent not in (None, os.getppid()):
        os._exit(LOST)


async def leave(worker: Worker, preempted: asyncio.Event) -> None:
    """Finish the current blocks and leave the rest to others: a queue that wants its machine back sends SIGTERM."""
    await preempted.wait()
    LEAVING.set()
    while worker.state.executing_count:
        await asyncio.sleep(0.02)
    await worker.close_gracefully()
    os._exit(0)


def log(words: str) -> None:
    """Write to the worker's log, whose last lines the scheduler shows."""
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
