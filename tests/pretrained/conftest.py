"""A small network as a published checkpoint, a server of files, and no waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pretrained.file_server import FileServer
from pretrained.small_models import checkpoint_bytes, make_network
from tracking.conftest import mongomock_store, server_store, store

from incasem_like.pretrained import fetching

__all__ = ["mongomock_store", "server_store", "store"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.001)
    for variable in ("INCASEM_TRACKING_URL", "INCASEM_RUNS", "INCASEM_MODELS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A server of files on this machine."""
    found = FileServer()
    yield found
    found.close()


@pytest.fixture(scope="session")
def checkpoint_content() -> bytes:
    """A checkpoint of a small network after 90,000 updates."""
    return checkpoint_bytes(make_network())


@pytest.fixture
def checkpoint_file(tmp_path: Path, checkpoint_content: bytes) -> Path:
    """The checkpoint as a file of a published model's name."""
    path = tmp_path / "somewhere" / "model_checkpoint_1841_er_CF.pt"
    path.parent.mkdir()
    path.write_bytes(checkpoint_content)
    return path
