"""Public data from a server on this machine that lists and serves objects as S3 does, and breaks off."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import h5py
import numpy as np
import pytest

from incasem_like.errors import DataError, DownloadError, InputError
from incasem_like.pretrained import fetching
from incasem_like.pretrained.public_data import download_box, download_public_data, find_public_data, list_objects
from incasem_like.volumes import create_volume, open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/01_data_formatting/download_data.py"
PAGE = 7


class Bucket:
    """Objects by key, listed seven at a time; ``cut`` keys are sent half as often as their number says."""

    def __init__(self):
        self.objects, self.cut, self.requests, self.damaged = {}, {}, [], set()
        bucket = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                parts = urlsplit(self.path)
                key = unquote(parts.path).lstrip("/")
                bucket.requests.append((key, self.headers.get("Range")))
                if "list-type" in parts.query:
                    return self.send(200, bucket.listing(parse_qs(parts.query)).encode(), {})
                if key not in bucket.objects:
                    return self.send(404, b"", {})
                body = bucket.objects[key]
                tag = hashlib.md5(body).hexdigest()
                headers = {"ETag": f'"{tag}"', "x-amz-request-id": "1", "Accept-Ranges": "bytes"}
                if key in bucket.damaged:
                    body = body[:-1] + bytes([body[-1] ^ 1])
                if wanted := self.headers.get("Range"):
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    first = int(first) if first else len(body) - int(last)
                    last = min(int(last) if wanted[6] != "-" and last else len(body) - 1, len(body) - 1)
                    headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
                    return self.send(206, body[first : last + 1], headers, key)
                return self.send(200, body, headers, key)

            do_HEAD = do_GET  # noqa: N815

            def send(self, status, body, headers, key=None):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if bucket.cut.get(key, 0) > 0:
                    bucket.cut[key] -= 1
                    self.wfile.write(body[: len(body) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    return
                self.wfile.write(body)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listing(self, query):
        prefix, after = query["prefix"][0], int(query.get("continuation-token", ["0"])[0])
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{after + PAGE}</NextContinuationToken>"
        end = more if after + PAGE < len(keys) else "<IsTruncated>false</IsTruncated>"
        found = "".join(
            f"<Contents><Key>{key}</Key><ETag>&quot;{hashlib.md5(self.objects[key]).hexdigest()}&quot;</ETag>"
            f"<Size>{len(self.objects[key])}</Size></Contents>"
            for key in keys[after : after + PAGE]
        )
        return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{end}{found}</ListBucketResult>'


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.001)
    made = Bucket()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def raw():
    return np.random.default_rng(0).integers(0, 256, (20, 24, 28)).astype(np.uint8)


@pytest.fixture
def container(bucket, tmp_path, raw):
    """The container of cell_6 in the bucket."""
    volume = create_volume(
        tmp_path / "there.zarr", "volumes/raw", shape=raw.shape, dtype="uint8", voxel_size=(5, 5, 5),
        offset=(10, 0, 0), chunk_shape=(8, 8, 8),
    )  # fmt: skip
    volume.write(raw)
    volume.mark_complete()
    for path in (tmp_path / "there.zarr").rglob("*"):
        if path.is_file():
            inside = path.relative_to(tmp_path / "there.zarr").as_posix()
            bucket.objects[f"datasets/cell_6/cell_6.zarr/{inside}"] = path.read_bytes()
    return "datasets/cell_6/cell_6.zarr/"


def test_the_addresses_are_those_that_the_projects_publish():
    assert find_public_data("cell_12").key == "datasets/cell_12/cell_12.zarr"
    assert find_public_data("fib25").key == "funke/fib25/training/tstvol-520-2.zarr"
    assert find_public_data("cremi_B").key == "static/data/sample_B_20160501.hdf"
    with pytest.raises(InputError, match="cremi_C"):
        find_public_data("cremi_D")


def test_a_listing_of_many_pages_is_complete(bucket, container):
    found = list_objects(bucket.url, container, fetching.open_session())
    assert sorted(each.key for each in found) == sorted(bucket.objects)
    assert {each.key: each.size for each in found} == {key: len(body) for key, body in bucket.objects.items()}


def test_a_container_is_downloaded_whole_and_the_second_time_nothing(bucket, container, tmp_path, raw):
    path = download_public_data("cell_6", tmp_path / "data", bucket.url)
    np.testing.assert_array_equal(open_volume(path, "volumes/raw").read(), raw)
    bucket.requests.clear()
    download_public_data("cell_6", tmp_path / "data", bucket.url)
    assert {key for key, _ in bucket.requests} == {""}  # listings only
    chunk = path / "volumes/raw/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    download_public_data("cell_6", tmp_path / "data", bucket.url)
    np.testing.assert_array_equal(open_volume(path, "volumes/raw").read(), raw)


def test_a_download_that_stops_is_resumed_and_never_looks_whole(bucket, container, tmp_path, raw, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS_WITHOUT_PROGRESS", 2)
    broken = f"{container}volumes/raw/1/1/1"
    body = bucket.objects.pop(broken)
    bucket.objects[broken] = b"x" * 10
    bucket.cut[broken] = 100
    monkeypatch.setattr(Bucket, "listing", _with_size(Bucket.listing, broken, body))
    with pytest.raises(DownloadError):
        download_public_data("cell_6", tmp_path / "data", bucket.url)
    with pytest.raises(DataError):
        open_volume(tmp_path / "data/cell_6.zarr", "volumes/raw")
    monkeypatch.undo()
    bucket.objects[broken], bucket.cut = body, {}
    bucket.requests.clear()
    path = download_public_data("cell_6", tmp_path / "data", bucket.url)
    np.testing.assert_array_equal(open_volume(path, "volumes/raw").read(), raw)
    assert len({key for key, _ in bucket.requests}) < len(bucket.objects) - 5  # not those that were there


def _with_size(listing, key, body):
    def changed(self, query):
        before = self.objects[key]
        self.objects[key] = body
        try:
            return listing(self, query)
        finally:
            self.objects[key] = before

    return changed


def test_a_damaged_object_is_refused(bucket, container, tmp_path):
    bucket.damaged.add(f"{container}volumes/raw/0/1/0")
    with pytest.raises(DownloadError, match=r"raw/0/1/0 was damaged on the way \(its size or MD5"):
        download_public_data("cell_6", tmp_path / "data", bucket.url)
    assert not (tmp_path / "data/cell_6.zarr/volumes/raw/0/1/0").exists()


def test_one_large_file_resumes_in_the_middle(bucket, tmp_path):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["volumes/raw"] = np.random.default_rng(1).integers(0, 256, (80, 64, 64)).astype(np.uint8)
    key = find_public_data("cremi_A").key
    bucket.objects[key] = (tmp_path / "a.hdf").read_bytes()
    bucket.cut[key] = 1
    path = download_public_data("cremi_A", tmp_path / "data", bucket.url)
    assert path.read_bytes() == bucket.objects[key]
    first, second = (wanted for _, wanted in bucket.requests)
    assert first is None
    assert 2**16 <= int(second.removeprefix("bytes=").removesuffix("-")) <= len(bucket.objects[key]) // 2


def test_a_box_reads_only_its_chunks(bucket, container, tmp_path, raw):
    [written] = download_box("cell_6", tmp_path, source=bucket.url, offset=(10, 8, 8), shape=(8, 8, 8))
    box = open_volume(written.address)
    assert (box.offset, box.voxel_size) == ((50, 40, 40), (5, 5, 5))
    np.testing.assert_array_equal(box.read(), raw[8:16, 8:16, 8:16])
    chunks = {key.removeprefix(container) for key, _ in bucket.requests if key.rpartition("/")[2].isdigit()}
    assert chunks == {"volumes/raw/1/1/1"}


def test_a_box_of_a_file_is_read_in_ranges(bucket, tmp_path, raw):
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file.create_dataset("volumes/raw", data=raw, chunks=(4, 8, 8))
        file["volumes/raw"].attrs["resolution"] = (40.0, 4.0, 4.0)
        file.create_dataset("padding", data=np.zeros(2**20, np.uint8))
    bucket.objects[find_public_data("cremi_A").key] = (tmp_path / "a.hdf").read_bytes()
    [written] = download_box("cremi_A", tmp_path, ["volumes/raw"], bucket.url, offset=(4, 8, 8), shape=(4, 8, 8))
    np.testing.assert_array_equal(open_volume(written.address).read(), raw[4:8, 8:16, 8:16])


@pytest.mark.slow
def test_the_script_lists_downloads_and_explains(bucket, container, tmp_path, raw):
    def run(*words):
        command = [sys.executable, str(SCRIPT), *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=dict(os.environ))

    assert "cremi_A" in run().stdout
    done = run("cell_6", "--url", bucket.url)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(open_volume(tmp_path / "data/cell_6.zarr/volumes/raw").read(), raw)
    missing = run("cell_7", "--url", bucket.url)
    assert (missing.returncode, "holds nothing below" in missing.stderr) == (1, True)
    assert run("cell_6", "--offset", "0", "0", "0").returncode == 2
