"""The scheduler: one thread that hands out blocks, hears what came of them, and replaces workers that hang or die."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from incasem_like.blockwise.channel import Message, ProtocolError
from incasem_like.blockwise.error_messages import told_error
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.peer import Peer
from incasem_like.blockwise.queue import HOPELESS, BlockError, BlockQueue, FailedBlock
from incasem_like.errors import DiskFullError, IncasemError, InputError

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_PROVE = 20.0
MOST_STRANGERS = 64
AHEAD = 0.25  # seconds of work that a worker is given beyond its present block, so that it need not wait for more
MOST_AHEAD = 256


@dataclass(frozen=True)
class Patience:
    """How long the scheduler waits, in seconds.

    Attributes:
        block: For one block.
        set_up: For a worker to set up the task once it is connected.
        silence: For a sign of life from a worker of another machine.
    """

    block: float
    set_up: float
    silence: float


@dataclass(frozen=True)
class Callbacks:
    """Whom the scheduler tells.

    Attributes:
        done: Blocks that are finished, each told once.
        failed: A block that has failed for good.
        look: Called every now and then with what each worker does.
    """

    done: Callable[[list[int]], None]
    failed: Callable[[FailedBlock], None]
    look: Callable[[Sequence[Message]], None]


class Scheduler:
    """Runs the blocks of a queue on workers.

    Args:
        queue: What is to be done.
        task: The message that tells a worker its task.
        fleet: Workers to start; others may come on their own.
        listener: Socket that workers of other machines connect to, or None.
        token: The run's secret.
        patience: How long to wait.
        callbacks: Whom to tell.
        in_flight: Blocks that a worker needs at a time to be busy.
    """

    def __init__(
        self, queue: BlockQueue, task: Message, fleet: Fleet, listener: socket.socket | None, token: bytes,
        patience: Patience, callbacks: Callbacks, in_flight: int = 1,
    ) -> None:  # fmt: skip
        self._queue, self._task, self._fleet, self._token = queue, task, fleet, token
        self._patience, self._tell = patience, callbacks
        self._listener, self._least = listener, in_flight
        self._selector = selectors.DefaultSelector()
        self._peers: set[Peer] = set()
        self._mean = 0.0  # seconds per block; 0 as long as none is done
        self._looked = 0.0

    def run(self) -> None:
        """Run until every block is done or has failed.

        Raises:
            DiskFullError: A worker found no space left.
            CheckpointError: The model is at fault.
            IncasemError: No worker can work.
        """
        if self._listener is not None:
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)
        told: set[str] = set()
        try:
            while self._queue:
                self._look()
                for key, _events in self._selector.select(SECONDS_BETWEEN_LOOKS):
                    if key.fileobj is self._listener:
                        self._accept()
                    elif isinstance(key.fileobj, Peer) and key.fileobj in self._peers:
                        self._serve(key.fileobj)
            told = self._stop_workers()
        finally:
            for peer in list(self._peers):
                self._close(peer)
            self._selector.close()
            self._fleet.end(told)

    def _look(self) -> None:
        """Do what time brings: workers to start, workers that hang, progress to tell."""
        now = time.monotonic()
        if now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        for started in self._fleet.tend(min(len(self._fleet), len(self._queue))):
            if started.link is not None:
                self._admit(Peer(started.link, self._token, started.name))
        for peer in list(self._peers):
            self._check(peer, now)
        self._tell.look([peer.describe() for peer in self._peers if peer.known])

    def _check(self, peer: Peer, now: float) -> None:
        """Give up a worker that hangs or is silent, and a stranger who remains one."""
        if not peer.known and not peer.local:
            if now - peer.heard > SECONDS_TO_PROVE:
                self._close(peer)
        elif not peer.ready and now - peer.progressed > self._patience.set_up:
            self._fleet.stop(peer.name)
            self._close(peer)
        elif peer.flying and now - peer.progressed > self._patience.block:
            self._fleet.stop(peer.name)
            self._lost(peer, f"The block took longer than the time limit of {self._patience.block:g} s")
        elif not peer.local and now - peer.heard > self._patience.silence:
            self._lost(peer, f"The worker {peer.name} on {peer.host} has been silent for {now - peer.heard:.0f} s")

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection, _address = self._listener.accept()
            strangers = [peer for peer in self._peers if not (peer.known or peer.local)]
            if len(strangers) >= MOST_STRANGERS:  # a worker of ours does not remain one for long
                self._close(min(strangers, key=lambda peer: peer.heard))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._admit(Peer(connection, self._token))

    def _admit(self, peer: Peer) -> None:
        self._peers.add(peer)
        self._selector.register(peer, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _serve(self, peer: Peer) -> None:
        """Hear one peer and answer."""
        try:
            for message in peer.receive():
                self._hear(peer, message)
            if peer not in self._peers:
                return
            if peer.ready:
                self._feed(peer)
            peer.flush()
            self._listen_for(peer, selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.waiting else 0))
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            if peer.known or peer.local:
                self._lost(peer, f"The worker {peer.name} sent nonsense ({error})")
            else:
                self._close(peer)  # whoever that was, it is none of ours
        except OSError as error:
            self._lost(peer, f"The worker {peer.name} was lost ({error})")

    def _listen_for(self, peer: Peer, events: int) -> None:
        if self._selector.get_key(peer).events != events:
            self._selector.modify(peer, events)

    def _hear(self, peer: Peer, message: Message) -> None:
        kind = message["type"]
        if kind == "hello":
            peer.known, peer.name = True, str(message["name"])
            peer.host, peer.pid = str(message["host"]), int(message["pid"])
            peer.progressed = time.monotonic()
            self._succeed(peer)
            self._fleet.came(peer.name)
            peer.send(self._task)
        elif kind == "ready":
            peer.ready, peer.progressed = True, time.monotonic()
            self._fleet.worked(peer.name)
        elif kind == "results":
            self._land(peer, message["results"])
        elif kind == "leave":
            self._queue.put_back(peer.flying)
            self._fleet.worked(peer.name)
            self._close(peer)
            self._feed_idle()
        elif kind == "broken":
            self._refuse(told_error(message["error"], peer.name))
        else:
            peer.send({"type": "alive"})

    def _succeed(self, peer: Peer) -> None:
        """Close an earlier connection of the same worker, which was cut: it has begun anew, so its blocks are free."""
        for earlier in list(self._peers):
            if earlier is not peer and earlier.known and earlier.worker == peer.worker:
                self._queue.put_back(earlier.flying)
                self._close(earlier)

    def _refuse(self, error: BlockError) -> None:
        """Give up at once where a worker cannot set up for a reason that every other one will meet too.

        Raises:
            InputError: That reason.
        """
        if isinstance(error.error, InputError | DiskFullError):
            raise error.error

    def _land(self, peer: Peer, results: Sequence[Sequence[Any]]) -> None:
        """Take results: blocks that are done, and errors."""
        done = []
        for number, seconds, error in results:
            number = int(number)
            peer.land(number)
            if error is None:
                self._learn(max(float(seconds), 1e-6))
                if self._queue.done(number):
                    done.append(number)
                continue
            known = told_error(error, peer.name)
            if isinstance(known.error, HOPELESS):
                self._tell.done(done)
                raise known.error
            self._fail(number, known)
        if done:
            self._fleet.worked(peer.name)
            self._tell.done(done)

    def _learn(self, seconds: float) -> None:
        """Take the time of one more block into the running mean."""
        self._mean += (0.1 if self._mean else 1.0) * (seconds - self._mean)

    def _feed(self, peer: Peer) -> None:
        """Give a worker so many blocks that it need not wait for the next, but leave some for others at the end."""
        others = max(1, sum(one.ready for one in self._peers))
        share = -(-self._queue.waiting // (2 * others))
        ahead = int(AHEAD / self._mean) if self._mean else 0
        wanted = max(self._least, min(1 + ahead, MOST_AHEAD, share))
        enough = wanted // 2 if self._least == 1 else wanted - 1
        if len(peer.flying) <= enough and (blocks := self._queue.take(wanted - len(peer.flying))):
            peer.assign(blocks)

    def _fail(self, number: int, error: BlockError) -> None:
        failed = self._queue.error(number, error)
        if failed is not None:
            self._tell.failed(failed)

    def _lost(self, peer: Peer, what: str) -> None:
        """Take back the blocks of a worker that is gone; the one it was at may be what it died of."""
        self._close(peer)
        if not peer.flying:
            return
        if peer.local:
            status = self._fleet.exit_status(peer.name, 1.0)
            if status is not None and not what.startswith("The block"):
                what = f"The worker {peer.name} died {_of(status)}"
        first, *others = peer.flying
        self._queue.put_back(others)
        self._fail(first, BlockError(IncasemError(f"{what}."), worker=peer.name, death=True))
        self._feed_idle()

    def _feed_idle(self) -> None:
        """Give blocks that came back to workers that have nothing to do and so will not ask."""
        for peer in list(self._peers):
            if peer.ready and not peer.flying:
                with contextlib.suppress(OSError):
                    self._feed(peer)

    def _close(self, peer: Peer) -> None:
        if peer in self._peers:
            self._peers.discard(peer)
            self._selector.unregister(peer)
            peer.connection.close()
            self._fleet.went(peer.name)

    def _stop_workers(self) -> set[str]:
        """Tell all workers to stop, and return their names."""
        told = set()
        for peer in self._peers:
            if peer.known:
                with contextlib.suppress(OSError):
                    peer.send({"type": "stop"})
                    told.add(peer.name)
        return told


def _of(status: int) -> str:
    if status == -9:
        return "by signal 9, perhaps for want of memory: fewer workers need less"
    return f"by signal {-status}" if status < 0 else f"with status {status}"
