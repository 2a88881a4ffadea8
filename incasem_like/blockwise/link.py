"""A worker's end of the connection: a thread that talks to the scheduler while blocks run, and finds it again."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from incasem_like.blockwise.channel import Channel, Message, ProtocolError

Connect = Callable[[], tuple[socket.socket, bytes]]
LOST, TIMED_OUT = 3, 4  # exit statuses
SECONDS_BETWEEN_ATTEMPTS = 1.0
SECONDS_BEYOND_LIMIT = 10.0
SECONDS_TOGETHER = 0.02  # results that come within so short a time go in one message


class Link:
    """Messages to and from the scheduler.

    Args:
        connect: Gives a connected socket and the token; called again whenever the connection is lost.
        hello: First message of each connection.
        reconnect: Seconds to look for a lost scheduler; 0 ends this process at once.

    Attributes:
        inbox: What the scheduler said, for the main thread.
        time_limit: Seconds a block may take before this process ends itself.
        block_began: When the present block was begun (``time.monotonic``); None between blocks.
    """

    def __init__(self, connect: Connect, hello: Message, reconnect: float) -> None:
        self._connect, self._hello, self._reconnect = connect, hello, reconnect
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self._outbox: deque[Message] = deque()
        self._doubtful: list[Message] = []  # results that were sent, but may have been lost with the connection
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._empty = threading.Event()
        self._urgent = False
        self.interval, self.silence = 5.0, 180.0
        self.time_limit: float | None = None
        self.block_began: float | None = None

    def start(self) -> None:
        """Begin to talk."""
        threading.Thread(target=self._run, name="link", daemon=True).start()

    def send(self, message: Message, *, urgent: bool = True) -> None:
        """Have a message sent, at once or with what follows in a moment; kept while the connection is lost."""
        self._outbox.append(message)
        self._empty.clear()
        self._urgent = self._urgent or urgent
        if urgent or len(self._outbox) == 1:
            self._wake()

    def flush(self, seconds: float) -> None:
        """Wait until all is sent, so long at most."""
        self._wake()
        self._empty.wait(seconds)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_out, b"!")

    def _run(self) -> None:
        lost_at, said = time.monotonic(), False
        while True:
            try:
                connection, token = self._connect()
                with connection:
                    channel = self._shake_hands(connection, token)
                    lost_at, said = time.monotonic(), False
                    self._talk(connection, channel)
            except (OSError, ProtocolError, ValueError) as error:
                gone = time.monotonic() - lost_at
                if not self._reconnect or gone > self._reconnect:
                    if self._reconnect:
                        _say(f"The scheduler was not reached for {gone:.0f} s, so this worker ends: {error}.")
                    os._exit(LOST)
                if not said:
                    _say(f"The scheduler cannot be reached, tried again for {self._reconnect:g} s: {error}.")
                    said = True
                self._watch()
                time.sleep(SECONDS_BETWEEN_ATTEMPTS)

    def _shake_hands(self, connection: socket.socket, token: bytes) -> Channel:
        channel = Channel(token, "worker")
        connection.settimeout(20.0)
        connection.sendall(channel.opening())
        while not channel.ready:
            channel.feed(_received(connection))
        connection.sendall(channel.pack(self._hello))
        self._outbox.extendleft(reversed(self._doubtful))
        self._doubtful.clear()
        while not channel.proved:
            self._take(channel.feed(_received(connection)))
        return channel

    def _talk(self, connection: socket.socket, channel: Channel) -> None:
        """Carry messages both ways until the connection is lost.

        Raises:
            OSError, ProtocolError: That it is.
        """
        heard = said = time.monotonic()
        while True:
            wait = SECONDS_TOGETHER if self._outbox else min(self.interval, 1.0)
            ready, _, _ = select.select([connection.fileno(), self._wake_in], [], [], wait)
            now = time.monotonic()
            if self._wake_in in ready:
                _drain(self._wake_in)
            if connection.fileno() in ready:
                self._take(channel.feed(_received(connection)))
                heard = now
            if (self._outbox and (self._urgent or now - said > SECONDS_TOGETHER)) or now - said > self.interval:
                self._urgent = False
                connection.sendall(b"".join(channel.pack(message) for message in self._gather()))
                said = now
            if not self._outbox:
                self._empty.set()
            if now - heard > self.silence:
                raise OSError("the scheduler is silent")
            self._watch()

    def _gather(self) -> list[Message]:
        """Take what is to be sent, results together in one message; a sign of life when there is nothing."""
        results, others = [], []
        while self._outbox:
            message = self._outbox.popleft()
            if message["type"] == "result":
                results.append(message["result"])
                self._doubtful.append(message)
            else:
                others.append(message)
        gathered: list[Message] = [{"type": "results", "results": results}] if results else []
        return gathered + others or [{"type": "alive"}]

    def _take(self, messages: list[Message]) -> None:
        if messages:
            self._doubtful.clear()
        for message in messages:
            if message["type"] == "task":
                self.interval, self.silence = message["interval"], message["silence"]
                self.time_limit = message["set_up_limit"]
            if message["type"] != "alive":
                self.inbox.put(message)

    def _watch(self) -> None:
        """End this process when its block has hung for longer than the scheduler waits for it."""
        began, limit = self.block_began, self.time_limit
        if began is not None and limit is not None and time.monotonic() - began > limit + SECONDS_BEYOND_LIMIT:
            os._exit(TIMED_OUT)


def _say(words: str) -> None:
    """Tell the worker's log, from which the scheduler takes a worker's last words."""
    print(words, file=sys.stderr, flush=True)


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(2**18)
    if not data:
        raise OSError("the scheduler has closed the connection")
    return data


def _drain(pipe: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(pipe, 4096):
            pass
