"""A TCP proxy on 127.0.0.1 that delays, hangs or cuts the connections that go through it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_BYTES_AT_ONCE = 1 << 16


class Proxy:
    """Passes connections on to a port of 127.0.0.1.

    Args:
        target: The port that it passes connections on to.

    Attributes:
        delay: Seconds that every piece of data waits in each direction, from now on.
        bytes_passed: Bytes passed on so far, both directions together.
    """

    def __init__(self, target: int) -> None:
        self.target, self.delay, self.bytes_passed = target, 0.0, 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.restore()

    @property
    def url(self) -> str:
        """Address for clients, without a database."""
        return f"mongodb://127.0.0.1:{self.port}/"

    def hang(self) -> None:
        """Keep all connections open, take new ones, and pass nothing on until ``restore``."""
        self._flowing.clear()

    def cut(self) -> None:
        """Cut all connections and refuse new ones until ``restore``."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            self._listener.close()
            self._listener = None
        self.drop()

    def drop(self) -> None:
        """Cut the connections there are, once; new ones are taken."""
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            _close(connection)

    def restore(self) -> None:
        """Work again as a proxy should, without delay."""
        self.delay = 0.0
        self._flowing.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
            self.port = self._listener.getsockname()[1]
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """End it for good."""
        self.cut()
        self._flowing.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            server.settimeout(None)
        except OSError:
            _close(client)
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open |= {client, server}
        if self._listener is None:  # cut while it was being made
            self.drop()
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(_BYTES_AT_ONCE):
                if self.delay:
                    time.sleep(self.delay)
                self._flowing.wait()
                sink.sendall(data)
                with self._lock:
                    self.bytes_passed += len(data)
        except OSError:
            pass
        with self._lock:
            self._open -= {source, sink}
        for end in (source, sink):
            _close(end)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
