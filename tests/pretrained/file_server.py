"""A server of files on this machine that can be made to fail in many ways."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Behaviour:
    """What the server does with the next request; the last one given holds for all later ones."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    stall_after: int | None = None
    ranges: bool = True
    obeys_if_range: bool = True
    shifted: int = 0


class FileServer:
    """Serves ``files`` (by path) with ETag and Range like S3, unless told otherwise by ``behaviours``."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.behaviours: list[Behaviour] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.listing: list[str] | None = None
        self.etags = True
        self.after_request: Callable[[], None] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_behaviour(self) -> Behaviour:
        if not self.behaviours:
            return Behaviour()
        return self.behaviours[0] if len(self.behaviours) == 1 else self.behaviours.pop(0)

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


def etag(content: bytes) -> str:
    return f'"{hashlib.sha1(content).hexdigest()}"'


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            server.requests.append((self.path, dict(self.headers)))
            if "list-type" in parts.query and server.listing is not None:
                self._list(parse_qs(parts.query)["prefix"][0])
                return
            self._file(server.files.get(unquote(parts.path)), server.next_behaviour())
            server.after_request()

        def _list(self, prefix: str) -> None:
            keys = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in server.listing or ())
            body = f'<?xml version="1.0"?><ListBucketResult><Prefix>{prefix}</Prefix>{keys}</ListBucketResult>'
            self._answer(200, {"Content-Type": "application/xml"}, body.encode())

        def _file(self, content: bytes | None, behaviour: Behaviour) -> None:
            if content is None or behaviour.status != 200:
                self._answer(behaviour.status if content is not None else 404, behaviour.headers, b"<html>no</html>")
                return
            tag = {"ETag": etag(content)} if server.etags else {}
            wanted = self.headers.get("Range")
            same = self.headers.get("If-Range") == tag.get("ETag") or not behaviour.obeys_if_range
            if wanted is None or not behaviour.ranges or not same:
                self._answer(200, {**tag, **behaviour.headers}, content, behaviour)
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) + behaviour.shifted
            if start >= len(content):
                self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
                return
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(206, {**tag, **behaviour.headers, "Content-Range": span}, content[start:], behaviour)

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, behaviour: Behaviour | None = None
        ) -> None:
            behaviour = behaviour or Behaviour()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            cut = behaviour.drop_after if behaviour.drop_after is not None else behaviour.stall_after
            self.wfile.write(body[:cut])
            if behaviour.stall_after is not None:
                time.sleep(60)
            if behaviour.drop_after is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler
