"""A worker process: ``python -m incasem_like.blockwise.worker_process``, on this machine or another one.

It proves the run's token, receives the task, sets it up once, and runs the blocks that it is given until it is told to
stop. The token comes by the environment or by a file that only its owner can read, never by the command line.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import pickle
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from queue import Empty
from typing import Any, NoReturn

from incasem_like.blockwise.channel import TOKEN_VARIABLE, Message
from incasem_like.blockwise.error_messages import error_message
from incasem_like.blockwise.link import LOST, Link
from incasem_like.blockwise.queue import BlockError
from incasem_like.blockwise.stages import Read, Stages

ANOTHER_TASK, BROKEN = 5, 6  # exit statuses


class WorkerProcess:
    """The main thread of a worker process.

    Args:
        link: To the scheduler.
        name: Of this worker.
    """

    def __init__(self, link: Link, name: str) -> None:
        self._link, self._name = link, name
        self._blocks: deque[int] = deque()
        self._task = ""
        self._idle = self._leaving = False
        self._worker: Any = None
        self._stages: Stages | None = None

    def run(self) -> NoReturn:
        """Run blocks until told to stop."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the scheduler answers ctrl-C
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._link.start()
        while True:
            self._listen()
            if self._leaving:
                self._leave()
            if self._blocks:
                self._run_block(self._blocks.popleft())

    def _listen(self) -> None:
        """Take all that the scheduler has said; wait for it when there is nothing to do."""
        while True:
            try:
                if self._blocks or self._leaving:
                    message = self._link.inbox.get_nowait()
                else:
                    self._idle = True
                    message = self._link.inbox.get()
            except Empty:
                return
            finally:
                self._idle = False
            self._obey(message)

    def _obey(self, message: Message) -> None:
        if message["type"] == "blocks":
            if self._stages is not None:
                self._stages.add(message["blocks"])
            else:
                self._blocks.extend(message["blocks"])
        elif message["type"] == "read" and self._stages is not None:
            self._link.block_began = time.monotonic()
            self._stages.compute(message["read"])
            self._link.block_began = None
        elif message["type"] == "task":
            self._begin(message)
        elif message["type"] == "stop":
            self._link.flush(5)
            os._exit(0)

    def _begin(self, message: Message) -> None:
        """Set up the task; after a lost connection, forget the blocks that others have been given meanwhile."""
        self._take_back()
        if self._task and self._task != message["task"]:
            os._exit(ANOTHER_TASK)
        if not self._task:
            from incasem_like.blockwise.worker import Worker, describe_error

            self._task = message["task"]
            self._link.block_began = time.monotonic()
            try:
                self._worker = Worker(_unpacked(message), self._name)
            except Exception as error:
                known = describe_error(error, self._name)
                print(known.trace, file=sys.stderr, flush=True)
                self._link.send({"type": "broken", "error": error_message(known)})
                self._link.flush(10)
                os._exit(BROKEN)
            self._link.block_began = None
            if self._worker.task.staged:
                self._stages = Stages(self._worker, self._deliver, self._report)
        self._link.time_limit = message["time_limit"]
        self._link.send({"type": "ready"})

    def _run_block(self, number: int) -> None:
        self._link.block_began = began = time.monotonic()
        error = self._worker.run(number)
        self._link.block_began = None
        self._report(number, time.monotonic() - began, error)

    def _deliver(self, read: Read) -> None:
        self._link.inbox.put({"type": "read", "read": read})

    def _report(self, number: int, seconds: float, error: BlockError | None) -> None:
        result = [number, seconds, None if error is None else error_message(error)]
        self._link.send({"type": "result", "result": result}, urgent=not self._blocks)

    def _take_back(self) -> list[int]:
        """Return the blocks that are not begun, and forget them."""
        if self._stages is not None:
            return self._stages.take_back()
        taken = list(self._blocks)
        self._blocks.clear()
        return taken

    def _on_sigterm(self, _number: int, _frame: object) -> None:
        """Leave after the present block: a queue that wants its machine back says so in this way."""
        self._leaving = True
        if self._idle:
            self._leave()

    def _leave(self) -> NoReturn:
        if self._stages is not None:
            self._stages.finish()
        self._link.send({"type": "leave"})
        self._link.flush(5)
        os._exit(0)


def _unpacked(message: Message) -> Any:
    """Make this process like the scheduler's, so that the task's function is found, and unpickle the task."""
    from multiprocessing import spawn

    preparation = message["preparation"]
    if not os.path.isdir(preparation.get("dir", "")):
        preparation.pop("dir", None)
    spawn.prepare(preparation)
    return pickle.loads(base64.b64decode(message["payload"]))


def main() -> NoReturn:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(description="Run blocks that a scheduler hands out.")
    parser.add_argument("--name", required=True, help="name of this worker, for messages")
    parser.add_argument("--reconnect", type=float, default=0.0, help="seconds to look for a lost scheduler")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--fd", type=int, help=f"inherited socket; the token is in {TOKEN_VARIABLE}")
    where.add_argument("--connection", type=Path, help="file with the scheduler's address and the token")
    arguments = parser.parse_args()
    token = bytes.fromhex(os.environ.pop(TOKEN_VARIABLE, ""))

    seen: list[bool] = []

    def connect() -> tuple[socket.socket, bytes]:
        if arguments.fd is not None:
            return socket.socket(fileno=arguments.fd), token
        # Read anew each time: a scheduler that was killed and started again listens elsewhere, with another token.
        try:
            known = json.loads(arguments.connection.read_text())
        except FileNotFoundError:
            if seen:  # a scheduler that ends by itself takes it away
                os._exit(LOST)
            raise
        seen.append(True)
        try:
            made = socket.create_connection((known["host"], known["port"]), timeout=20)
        except OSError as error:
            raise OSError(f"{known['host']} port {known['port']}, {error.strerror or error}") from error
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made, bytes.fromhex(known["token"])

    hello = {"type": "hello", "name": arguments.name, "host": socket.gethostname(), "pid": os.getpid()}
    WorkerProcess(Link(connect, hello, arguments.reconnect), arguments.name).run()


if __name__ == "__main__":
    sys.exit(main())
