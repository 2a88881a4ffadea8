"""A file comes whole and right or not at all, whatever the server and the network do."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pretrained.file_server import Behaviour, FileServer
from pretrained.small_models import checkpoint_bytes, make_network

from incasem_like.errors import DownloadError, InputError
from incasem_like.pretrained.checkpoint_run import read_whole
from incasem_like.pretrained.downloading import Check, Downloaded, Downloader
from incasem_like.pretrained.fetching import (
    ATTEMPTS_WITHOUT_PROGRESS,
    MissingFileError,
    base_url,
    file_url,
    open_session,
)
from incasem_like.pretrained.manifest import DownloadLog, PublishedFile, read_manifest

DATA = os.urandom(1 << 20)


def accept_any(path: Path) -> None:
    """Accept any content."""


FILE = PublishedFile(file="thing.bin", key="models/thing.bin")
PATH = "/models/thing.bin"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def fetch(server: FileServer, models: Path, published: PublishedFile = FILE, check: Check = accept_any) -> Downloaded:
    return Downloader(models, server.url, open_session()).file(published, models / published.file, check)


def left_over(models: Path) -> list[str]:
    return sorted(path.name for path in models.rglob("*") if path.is_file() and path.name != "downloads.json")


def test_a_file_comes_whole_with_its_hash_recorded(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    first, second = fetch(server, models), fetch(server, models)
    assert first.path.read_bytes() == DATA
    assert (first.is_new, first.trust, first.sha256) == (True, "first", hashlib.sha256(DATA).hexdigest())
    assert (second.is_new, second.trust, second.sha256) == (False, "earlier", first.sha256)
    assert len(server.requests) == 1
    assert left_over(models) == ["thing.bin"]


def test_a_broken_connection_is_taken_up_where_it_broke(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(drop_after=300_000), Behaviour(drop_after=400_000), Behaviour()]
    assert fetch(server, models).path.read_bytes() == DATA
    assert [wanted is not None for wanted in server.ranges] == [False, True, True]
    starts = [int(wanted[6:-1]) for wanted in server.ranges if wanted]
    assert 0 < starts[0] <= 300_000 < starts[1] <= 700_000
    assert left_over(models) == ["thing.bin"]


def test_a_connection_that_breaks_again_and_again_is_given_up_and_gone_on_with_later(
    server: FileServer, models: Path
) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(drop_after=200_000), Behaviour(drop_after=0)]
    with pytest.raises(DownloadError, match="breaks off"):
        fetch(server, models)
    assert len(server.requests) == 1 + ATTEMPTS_WITHOUT_PROGRESS
    assert left_over(models) == ["thing.bin.part", "thing.bin.part.json"]
    server.behaviours = []
    assert fetch(server, models).path.read_bytes() == DATA
    assert server.ranges[-1] is not None


def test_a_killed_download_is_gone_on_with_by_the_next_process(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(stall_after=500_000), Behaviour()]
    code = f"""
from pathlib import Path
from incasem_like.pretrained.downloading import *
from incasem_like.pretrained.manifest import PublishedFile
from incasem_like.pretrained.fetching import open_session
from incasem_like.pretrained.checkpoint_run import read_whole
models = Path({str(models)!r})
published = PublishedFile(file="thing.bin", key="models/thing.bin")
Downloader(models, {server.url!r}, open_session()).file(published, models / "thing.bin", read_whole)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    part = models / "thing.bin.part"
    try:
        deadline = time.monotonic() + 90
        while not (part.is_file() and part.stat().st_size > 400_000):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(InputError, match="another process"):
            fetch(server, models)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (models / "thing.bin").exists()
    assert fetch(server, models).path.read_bytes() == DATA
    assert int((server.ranges[-1] or "bytes=0-")[6:-1]) > 400_000


def test_two_models_that_come_at_once_are_both_in_the_log(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is recorded while the first is between reading the log and writing it."""
    models.mkdir()
    first, second = models / "first.bin", models / "second.bin"
    first.touch()
    second.touch()
    log, read = DownloadLog(models), DownloadLog._read
    other = threading.Thread(target=DownloadLog(models).add, args=(second, "b" * 64, ""))

    def read_slowly(one: DownloadLog) -> object:
        entries = read(one)
        if one is log:
            other.start()
            other.join(0.5)  # it waits for its turn; without turns it would be done by then
        return entries

    with monkeypatch.context() as patch:
        patch.setattr(DownloadLog, "_read", read_slowly)
        log.add(first, "a" * 64, "")
        other.join(60)
    assert [log.get(path) is not None for path in (first, second)] == [True, True]


@pytest.mark.parametrize("obeys", [True, False])
def test_a_file_that_changes_between_two_pieces_is_fetched_anew(server: FileServer, models: Path, obeys: bool) -> None:
    server.files[PATH] = DATA
    changed = DATA[::-1]
    server.after_request = lambda: server.files.update({PATH: changed})
    server.behaviours = [Behaviour(drop_after=300_000), Behaviour(obeys_if_range=obeys)]
    assert fetch(server, models).path.read_bytes() == changed


def test_a_piece_that_begins_elsewhere_is_not_taken(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(drop_after=300_000), Behaviour(shifted=1000), Behaviour()]
    assert fetch(server, models).path.read_bytes() == DATA


def test_a_file_that_became_shorter_is_fetched_anew(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    server.after_request = lambda: server.files.update({PATH: DATA[:1000]})
    server.behaviours = [Behaviour(drop_after=300_000), Behaviour(obeys_if_range=False)]
    assert fetch(server, models).path.read_bytes() == DATA[:1000]


@pytest.mark.parametrize(("ranges", "etags"), [(False, True), (True, False)])
def test_a_server_without_ranges_or_validators_sends_all_again(
    server: FileServer, models: Path, ranges: bool, etags: bool
) -> None:
    server.files[PATH], server.etags = DATA, etags
    server.behaviours = [Behaviour(drop_after=900_000, ranges=ranges), Behaviour(ranges=ranges)]
    assert fetch(server, models).path.read_bytes() == DATA


def test_a_server_without_ranges_that_always_breaks_off_is_given_up(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(drop_after=900_000, ranges=False)]
    with pytest.raises(DownloadError, match="the same command resumes"):
        fetch(server, models)
    assert len(server.requests) == 1 + ATTEMPTS_WITHOUT_PROGRESS


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server: FileServer, models: Path, status: int) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(status=status, headers={"Retry-After": "0"}), Behaviour()]
    assert fetch(server, models).path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (403, InputError, "refuses"),
        (401, InputError, "refuses"),
        (404, MissingFileError, "No file"),
        (410, MissingFileError, "No file"),
        (418, DownloadError, "418"),
    ],
)
def test_a_refusal_is_said_at_once_and_leaves_nothing(
    server: FileServer, models: Path, status: int, error: type[Exception], words: str
) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(status=status)]
    with pytest.raises(error, match=words):
        fetch(server, models)
    assert len(server.requests) == 1
    assert not (models / "thing.bin").exists()


def test_no_server_is_one_sentence(server: FileServer, models: Path) -> None:
    server.close()
    with pytest.raises(DownloadError, match=r"no connection.*--url"):
        fetch(server, models)


def test_a_file_that_is_not_the_published_one_is_refused(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    published = FILE.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DownloadError, match="not the published"):
        fetch(server, models, published)
    assert left_over(models) == []
    right = FILE.model_copy(update={"sha256": hashlib.sha256(DATA).hexdigest()})
    assert fetch(server, models, right).trust == "manifest"


def test_a_later_copy_must_be_the_one_that_came_first(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    first = fetch(server, models)
    first.path.unlink()
    server.files[PATH] = DATA[::-1]
    with pytest.raises(DownloadError, match="not the file that came first"):
        fetch(server, models)
    assert left_over(models) == []
    Downloader(models, server.url, open_session()).log.forget(first.path)
    assert fetch(server, models).path.read_bytes() == DATA[::-1]


def test_what_differs_from_the_hash_the_server_names_is_refused(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    headers = {"x-amz-request-id": "1", "ETag": f'"{hashlib.md5(b"other").hexdigest()}"'}
    server.behaviours = [Behaviour(headers=headers)]
    with pytest.raises(DownloadError, match="damaged on the way"):
        fetch(server, models)
    assert left_over(models) == []


def test_the_hash_that_the_server_names_is_trusted_more_than_none(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    tag = f'"{hashlib.md5(DATA).hexdigest()}"'
    server.behaviours = [Behaviour(headers={"x-amz-request-id": "1", "ETag": tag})]
    assert fetch(server, models).trust == "server"


def test_the_tag_of_an_upload_in_parts_is_no_hash(server: FileServer, models: Path) -> None:
    server.files[PATH] = DATA
    server.behaviours = [Behaviour(headers={"x-amz-request-id": "1", "ETag": f'"{"0" * 32}-9"'})]
    assert fetch(server, models).trust == "first"


def test_a_page_in_place_of_a_checkpoint_is_refused(server: FileServer, models: Path) -> None:
    server.files[PATH] = b"<html>Please log in</html>"
    with pytest.raises(DownloadError, match="cannot be read"):
        fetch(server, models, check=read_whole)
    assert left_over(models) == []


def test_a_file_that_was_brought_here_by_hand_is_recorded(server: FileServer, models: Path) -> None:
    models.mkdir()
    (models / "thing.bin").write_bytes(DATA)
    assert (fetch(server, models).trust, fetch(server, models).trust) == ("first", "earlier")
    (models / "thing.bin").write_bytes(DATA[1:])
    with pytest.raises(DownloadError, match="delete it"):
        fetch(server, models)
    assert server.requests == []


def test_a_compressing_server_does_not_spoil_the_file(server: FileServer, models: Path) -> None:
    server.files[PATH] = gzip.compress(b"content" * 1000)
    server.behaviours = [Behaviour(headers={"Content-Encoding": "gzip"})]
    assert fetch(server, models).path.read_bytes() == b"content" * 1000


def test_neither_password_nor_signature_is_written_down(
    server: FileServer, models: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.files["/thing.bin"] = DATA
    secret = server.url.replace("http://", "http://me:hunter2@") + "/thing.bin?signature=hunter3"
    Downloader(models, secret, open_session()).file(FILE, models / "thing.bin", accept_any)
    server.behaviours = [Behaviour(status=403)]
    (models / "thing.bin").unlink()
    with pytest.raises(InputError) as refusal:
        Downloader(models, secret, open_session()).file(FILE, models / "thing.bin", accept_any)
    written = (models / "downloads.json").read_text() + str(refusal.value) + "".join(capfd.readouterr())
    assert "hunter" not in written
    assert "127.0.0.1" in written


def test_a_proxy_is_used_where_one_is_named(server: FileServer, models: Path) -> None:
    server.files["/models/thing.bin"] = DATA
    session = open_session(server.url)
    found = Downloader(models, "http://bucket.invalid", session).file(FILE, models / "thing.bin", accept_any)
    assert found.path.read_bytes() == DATA
    assert server.requests[0][0] == "http://bucket.invalid/models/thing.bin"


def test_a_model_is_found_by_its_id_where_its_name_is_another(
    server: FileServer, models: Path, checkpoint_content: bytes
) -> None:
    key = "models/pretrained_checkpoints/model_checkpoint_1986_CCP_hpf.pt"
    server.files[f"/{key}"] = checkpoint_content
    server.listing = [key]
    found = Downloader(models, server.url, open_session()).model(1986, read_manifest().models[1986])
    assert found.path == models / "pretrained_checkpoints" / "model_checkpoint_1986_CCP_hpf.pt"
    server.listing = []
    with pytest.raises(MissingFileError):
        Downloader(models, server.url, open_session()).model(2000, read_manifest().models[2000])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://mirror.org/incasem/", "https://mirror.org/incasem/models/thing.bin"),
        ("https://mirror.org/thing.bin", "https://mirror.org/thing.bin"),
        ("s3://asem-project", "https://asem-project.s3.amazonaws.com/models/thing.bin"),
        ("s3://lab.models/copy", "https://s3.amazonaws.com/lab.models/copy/models/thing.bin"),
    ],
)
def test_a_source_is_a_mirror_a_bucket_or_the_file_itself(address: str, expected: str) -> None:
    assert file_url(base_url(address), FILE.key) == expected


def test_a_source_of_another_scheme_is_refused(models: Path) -> None:
    with pytest.raises(InputError, match="not a URL"):
        Downloader(models, "ftp://mirror.org", open_session())


def test_the_checkpoint_that_came_is_read_without_running_code_in_it(
    server: FileServer, models: Path, tmp_path: Path
) -> None:
    server.files[PATH] = checkpoint_bytes(make_network(), bare=True)
    assert fetch(server, models, check=read_whole).is_new
