"""A scene in neuroglancer: its own server, and beside it the state and chunks that are read when they are asked for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import neuroglancer
import neuroglancer.server
import tornado.web

from incasem_like.errors import DataError, InputError
from incasem_like.viewing.scene import Scene

READERS = 8  # chunks that are read at once, which bounds the memory
LOOPBACK = "127.0.0.1"
PART = r"((?:\d+/)?(?:\.z[a-z]+|\d+(?:\.\d+)*))"  # of a Zarr group: documents, and chunks of a level


class _Answer(tornado.web.RequestHandler):
    """A request for a part of the scene."""

    def initialize(self, scene: Scene, readers: concurrent.futures.Executor) -> None:
        self.scene, self.readers = scene, readers
        self.set_header("Cache-Control", "no-store")


class _State(_Answer):
    async def get(self, place: str | None) -> None:
        # As the browser knows it: through an SSH tunnel the address is another than here
        address = f"{self.request.protocol}://{self.request.host}{os.path.dirname(self.request.path)}"
        number = None if place is None else int(place) - 1
        if number is not None and not 0 <= number < len(self.scene.places):
            raise tornado.web.HTTPError(404)
        self.finish(await asyncio.get_running_loop().run_in_executor(self.readers, self.scene.state, address, number))


class _Data(_Answer):
    async def get(self, number: str, path: str) -> None:
        try:
            served = self.scene.layers[int(number)].served
            level, _, name = path.rpartition("/")
            if path == ".zattrs":
                self.finish(served.group_attributes())
            elif path == ".zgroup":
                self.finish({"zarr_format": 2})
            elif name == ".zarray":
                self.finish(served.array_document(int(level)))
            elif name == ".zattrs":
                self.finish({})
            else:
                read = asyncio.get_running_loop().run_in_executor(self.readers, served.read_chunk, int(level), name)
                self.set_header("Content-Type", "application/octet-stream")
                self.finish(await read)
        except (IndexError, ValueError):
            raise tornado.web.HTTPError(404) from None
        except DataError as error:
            raise tornado.web.HTTPError(500, reason=" ".join(str(error).split())[:200]) from None


class _Objects(_Answer):
    async def get(self, number: str, path: str) -> None:
        try:
            read = self.scene.objects[int(number)].read
            found = await asyncio.get_running_loop().run_in_executor(self.readers, read, path)
        except (IndexError, OSError):
            raise tornado.web.HTTPError(404) from None
        except DataError as error:
            raise tornado.web.HTTPError(500, reason=" ".join(str(error).split())[:200]) from None
        self.set_header("Content-Type", "application/json" if path == "info" else "application/octet-stream")
        self.finish(found)


@contextmanager
def serving(scene: Scene, port: int = 0, *, public: bool = False) -> Iterator[str]:
    """Serve a scene from a thread of this process while the context lasts.

    Args:
        scene: What to show.
        port: TCP port; 0 takes a free one.
        public: Whether other machines may connect. The address holds a secret in both cases.

    Yields:
        The address to open in a browser; with ``state-2.json`` at its end, centred on the second of the places.

    Raises:
        InputError: The port is in use.
    """
    neuroglancer.set_server_bind_address("0.0.0.0" if public else LOOPBACK, port)
    try:
        viewer = neuroglancer.UnsynchronizedViewer()
    except OSError as error:
        raise InputError(f"Port {port} cannot be used ({error.strerror}): choose another with --port.") from None
    server = neuroglancer.server.global_server
    readers = concurrent.futures.ThreadPoolExecutor(READERS, "viewer")
    common = {"scene": scene, "readers": readers}
    below = f"/scene/{viewer.token}"
    server.app.add_handlers(
        ".*",
        [
            (rf"{below}/state(?:-(\d+))?\.json", _State, common),
            (rf"{below}/data/(\d+)/{PART}", _Data, common),
            (rf"{below}/objects/(\d+)/([\w:.]+(?:/\w+)?)", _Objects, common),
        ],
    )
    address = f"http://{socket.getfqdn() if public else LOOPBACK}:{server.port}"
    try:
        yield f"{address}/v/{viewer.token}/#!{address}{below}/state.json"
    finally:
        neuroglancer.stop()
        readers.shutdown(cancel_futures=True)
