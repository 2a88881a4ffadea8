"""Volumes in an object store, here a small S3 server that keeps objects in memory."""

import hashlib
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Roi, create_volume, dataset_exists, list_datasets, open_volume


class _Bucket(http.server.BaseHTTPRequestHandler):
    """Path-style S3: GET, HEAD, PUT, DELETE of objects and ListObjectsV2; no signatures are checked."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _key(self) -> str:
        return urllib.parse.unquote(urllib.parse.urlparse(self.path).path).partition("/bucket/")[2]

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amz-bucket-region", "us-east-1")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _etag(self, key: str) -> str:
        return f'"{hashlib.md5(self.objects[key]).hexdigest()}"' if key in self.objects else ""

    def do_GET(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            keys = sorted(key for key in self.objects if key.startswith(prefix))
            contents = "".join(f"<Contents><Key>{escape(key)}</Key><Size>1</Size></Contents>" for key in keys)
            head = f"<Name>bucket</Name><KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>"
            xml = f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult>{head}{contents}</ListBucketResult>'
            return self._answer(200, xml.encode())
        key = self._key()
        if key not in self.objects:
            return self._answer(404)
        if self.headers.get("If-None-Match") == self._etag(key):
            return self._answer(304, ETag=self._etag(key))
        return self._answer(200, self.objects[key], ETag=self._etag(key))

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        key, body = self._key(), self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused(key):
            return self._answer(412)
        self.objects[key] = body
        return self._answer(200, ETag=self._etag(key))

    def do_DELETE(self) -> None:
        if self._refused(self._key()):
            return self._answer(412)
        self.objects.pop(self._key(), None)
        return self._answer(204)

    def _refused(self, key: str) -> bool:
        wanted = self.headers.get("If-Match")
        return (wanted is not None and wanted != self._etag(key)) or (
            self.headers.get("If-None-Match") == "*" and key in self.objects
        )


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = type("Bucket", (_Bucket,), {"objects": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield "s3://bucket/folder"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("container", "format_name"), [("a.zarr", "zarr2"), ("a.zarr", "zarr3"), ("a.n5", "n5")])
def test_a_volume_lives_in_an_object_store(bucket: str, container: str, format_name: str) -> None:
    expected = np.random.default_rng(0).integers(0, 255, (4, 5, 6), dtype=np.uint8)
    options: dict[str, Any] = {"shape": (4, 5, 6), "dtype": "uint8", "voxel_size": (40, 4.6, 4), "format": format_name}
    volume = create_volume(f"{bucket}/{container}/volumes/raw", offset=(80, 0, 0), chunk_shape=(2, 3, 3), **options)
    volume.write(expected)
    with pytest.raises(DataError, match="incomplete"):
        open_volume(f"{bucket}/{container}/volumes/raw")
    volume.mark_complete()
    found = open_volume(f"{bucket}/{container}", "volumes/raw")
    assert np.array_equal(found.read(Roi((3, 1, 1), (2, 3, 4))), expected[1:3, 1:4, 1:5])
    assert found.voxel_size == (40, 4.6, 4)
    assert list_datasets(f"{bucket}/{container}") == ["volumes/raw"]
    assert list_datasets(f"{bucket}/{container}/volumes") == ["raw"]
    with pytest.raises(InputError, match="exists already"):
        create_volume(f"{bucket}/{container}/volumes/raw", **options)
    again = create_volume(f"{bucket}/{container}/volumes/raw", overwrite=True, **options)
    assert again.read().max() == 0
    assert not dataset_exists(f"{bucket}/{container}/volumes/labels")
