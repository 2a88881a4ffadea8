"""The scheduler alone, with workers that the test plays itself."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from incasem_like.blockwise.channel import Channel, Message
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.launchers import Place
from incasem_like.blockwise.queue import BlockQueue, FailedBlock
from incasem_like.blockwise.scheduler import Callbacks, Patience, Scheduler

TOKEN = b"t" * 32
BLOCKS = 4


class Played:
    """A worker's connection, up to the first blocks it is given."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._channel = Channel(TOKEN, "worker")
        self._socket.sendall(self._channel.opening())
        while not self._channel.ready:
            self._channel.feed(self._socket.recv(1000))
        self.say({"type": "hello", "name": "far-1", "host": "far", "pid": 7})
        self.said = self._hear()
        assert next(self.said)["type"] == "task"
        self.say({"type": "ready"})
        self.given: list[int] = next(self.said)["blocks"]

    def say(self, message: Message) -> None:
        self._socket.sendall(self._channel.pack(message))

    def _hear(self) -> Iterator[Message]:
        while data := self._socket.recv(1000):
            yield from self._channel.feed(data)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Run a scheduler until its blocks are done, which must not take long; give its port."""
    done: list[int] = []
    failed: list[FailedBlock] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheduler = Scheduler(
            BlockQueue(range(BLOCKS), 2), {"type": "task"}, Fleet([], Place(tmp_path, TOKEN, 0)), listener, TOKEN,
            Patience(60, 60, 60), Callbacks(done.extend, failed.append, lambda _workers: None),
        )  # fmt: skip
        thread = threading.Thread(target=scheduler.run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()
    assert (sorted(done), failed) == (list(range(BLOCKS)), [])


def test_a_worker_that_connects_anew_gets_at_once_what_its_lost_connection_had(port: int) -> None:
    lost = Played(port)  # of whose end nobody hears
    again = Played(port)
    assert again.given[0] == lost.given[0]
    given = again.given
    while given:
        again.say({"type": "results", "results": [[number, 0.1, None] for number in given]})
        given = next((message["blocks"] for message in again.said if message["type"] == "blocks"), [])
