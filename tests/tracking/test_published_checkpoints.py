"""Checkpoints fetched from where they were published."""

import functools
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from incasem_like.errors import CheckpointError, StoreError
from incasem_like.tracking import CheckpointRecord, RunStore, run_experiment


@pytest.fixture
def published(tmp_path: Path) -> Iterator[str]:
    """A web server of tmp_path/published; gives its address."""
    (tmp_path / "published").mkdir()
    handler = functools.partial(_QuietHandler, directory=str(tmp_path / "published"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def registered(store: RunStore, entry: dict[str, Any]) -> CheckpointRecord:
    run_experiment(name="train", config={}, main=lambda run: run.set_info("checkpoints", [entry]), store=store)
    return store.get(1).checkpoint("last")


def test_a_published_checkpoint_comes_from_its_url_and_is_held_against_its_hash(
    store: RunStore, published: str, tmp_path: Path
) -> None:
    (tmp_path / "published" / "1847.pt").write_bytes(b"published")
    digest = hashlib.sha256(b"published").hexdigest()
    entry = {"iteration": 5, "url": f"{published}/1847.pt", "sha256": digest, "bytes": 9}
    checkpoint = registered(store, entry)
    assert checkpoint.fetch().read_bytes() == b"published"
    assert checkpoint.fetch().name == "1847.pt"
    os.unlink(checkpoint.fetch())
    (tmp_path / "published" / "1847.pt").write_bytes(b"something")
    with pytest.raises(CheckpointError, match=r"copy of 1847.pt in http://.* is damaged"):
        checkpoint.fetch()
    (tmp_path / "published" / "1847.pt").unlink()
    with pytest.raises(StoreError, match=r"cannot be downloaded \(HTTP Error 404"):
        checkpoint.fetch()
