"""Pages of a program for the browser on the same machine: a server that only reads, behind a secret in its address."""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import parse_qs

import tornado.httpserver
import tornado.netutil
import tornado.web

from incasem_like.errors import IncasemError, InputError

LOOPBACK = "127.0.0.1"
# Whatever a page holds, a browser asks no other machine for anything, and tells none of its address
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Content(NamedTuple):
    """An answer.

    Attributes:
        type: MIME type.
        body: Its bytes; empty for nothing.
        seconds: How long a browser may keep it.
    """

    type: str
    body: bytes
    seconds: int = 0


# What answers a request, from the rest of its path and its query.
Answer = Callable[[str, Mapping[str, list[str]]], Content]


class _Page(tornado.web.RequestHandler):
    def initialize(self, answer: Answer, worker: concurrent.futures.Executor) -> None:
        self.answer, self.worker = answer, worker
        self.waiting: asyncio.Future[Content] | None = None
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def on_connection_close(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()  # nobody looks any more: what is queued need not be made

    async def get(self, rest: str | None) -> None:
        query = parse_qs(self.request.query, keep_blank_values=True)
        self.waiting = asyncio.get_running_loop().run_in_executor(self.worker, self.answer, rest or "", query)
        try:
            found = await self.waiting
        except (IncasemError, OSError) as error:
            self.set_status(400 if isinstance(error, InputError) else 500)
            found = Content("text/plain; charset=utf-8", str(error).encode())
        self.set_header("Content-Type", found.type)
        self.set_header("Cache-Control", f"private, max-age={found.seconds}" if found.seconds else "no-store")
        if not found.body:
            self.set_status(204)
        self.finish(found.body or None)


@contextmanager
def serving_pages(
    answers: Mapping[str, Answer], port: int = 0, pictures: Mapping[str, Answer] | None = None
) -> Iterator[str]:
    """Serve pages to this machine from a thread of this process while the context lasts.

    Args:
        answers: By the first part of a path below the address, ``run`` of ``run/trainings/12``; ``""`` is the address.
        port: TCP port; 0 takes a free one.
        pictures: The same, for what may take long: made in a thread of its own, so that pages need not wait.

    Yields:
        The address, which holds a secret and ends in a slash.

    Raises:
        InputError: The port is in use.
    """
    try:
        sockets = tornado.netutil.bind_sockets(port, LOOPBACK)
    except OSError as error:
        raise InputError(f"Port {port} cannot be used ({error.strerror}): choose another with --port.") from None
    secret, started = secrets.token_urlsafe(16), threading.Event()
    workers = [concurrent.futures.ThreadPoolExecutor(1, name) for name in ("pages", "pictures")]
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        application = tornado.web.Application(
            [
                (rf"/{secret}/{name}" + ("(?:/(.+))?" if name else "()"), _Page, {"answer": answer, "worker": worker})
                for named, worker in zip((answers, pictures or {}), workers, strict=True)
                for name, answer in named.items()
            ],
            log_function=lambda handler: None,
        )
        server = tornado.httpserver.HTTPServer(application)
        server.add_sockets(sockets)
        started.set()
        await ended.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="gallery", daemon=True)
    thread.start()
    started.wait()
    try:
        yield f"http://{LOOPBACK}:{sockets[0].getsockname()[1]}/{secret}/"
    finally:
        stop[0]()
        thread.join()
        for worker in workers:
            worker.shutdown(cancel_futures=True)
