"""The scheduler's view of one connected worker: its socket, what it said, and the blocks it has."""

from __future__ import annotations

import contextlib
import socket
import time

from incasem_like.blockwise.channel import Channel, Message

_LARGEST_READ = 2**18


class Peer:
    """One connection.

    Args:
        connection: To the worker, or to a stranger who has yet to prove the token.
        token: The run's secret.
        name: Of a worker that this process started with the connection; others say theirs.

    Attributes:
        name: Of the worker.
        host: Its machine.
        pid: Its process.
        ready: Whether it has set up the task.
        flying: Its blocks, the one it works on first.
        heard: When it was last heard (``time.monotonic``).
        progressed: When it got its first block, or last finished one.
    """

    def __init__(self, connection: socket.socket, token: bytes, name: str = "") -> None:
        connection.setblocking(False)
        self.connection, self.name = connection, name
        self.local = bool(name)
        self.host, self.pid = "", 0
        self.known = self.ready = False
        self.flying: dict[int, None] = {}
        self.heard = self.progressed = time.monotonic()
        self._channel = Channel(token, "scheduler")
        self._outgoing = bytearray(self._channel.opening())

    @property
    def worker(self) -> tuple[str, str, int]:
        """Which worker this is, whatever the connection: its name, machine and process."""
        return self.name, self.host, self.pid

    def fileno(self) -> int:
        """Return the socket's descriptor, as ``select`` asks for it."""
        return self.connection.fileno()

    def receive(self) -> list[Message]:
        """Return the messages that are whole by now.

        Raises:
            OSError: The connection is lost.
            ProtocolError: The other side does not hold the token.
        """
        try:
            data = self.connection.recv(_LARGEST_READ)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionError("closed by the worker")
        messages = self._channel.feed(data)
        if messages:
            self.heard = time.monotonic()
        return messages

    def send(self, message: Message) -> None:
        """Send a message, as far as the connection takes it; the rest goes with ``flush``.

        Raises:
            OSError: The connection is lost.
        """
        self._outgoing += self._channel.pack(message)
        self.flush()

    def flush(self) -> None:
        """Send more of what waits.

        Raises:
            OSError: The connection is lost.
        """
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: self.connection.send(self._outgoing)]

    @property
    def waiting(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def assign(self, blocks: list[int]) -> None:
        """Give it blocks.

        Raises:
            OSError: The connection is lost.
        """
        if not self.flying:
            self.progressed = time.monotonic()
        self.flying.update(dict.fromkeys(blocks))
        self.send({"type": "blocks", "blocks": blocks})

    def land(self, number: int) -> None:
        """Take a block off it that is finished, or failed."""
        self.flying.pop(number, None)
        self.progressed = time.monotonic()

    def describe(self) -> Message:
        """Say what it does, for the job's record."""
        block = next(iter(self.flying), None)
        seconds = time.monotonic() - self.progressed if block is not None else 0.0
        return {"name": self.name, "host": self.host, "pid": self.pid, "block": block, "seconds": round(seconds, 1)}
