"""Stores to test on: files, mongomock, and a server over a socket."""

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from incasem_like.tracking import RunStore, open_store
from incasem_like.tracking.address import MongoAddress, parse_address
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore, connect

_SOURCES = tempfile.mkdtemp(prefix="incasem-test-sources-")  # the same code need not be archived by every test


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test's databases bear the names of the next one's; what is known of their runs is not passed on."""
    cache = tmp_path.with_name(f"{tmp_path.name}-cache")
    cache.mkdir()
    (cache / "sources").symlink_to(_SOURCES)
    monkeypatch.setenv("INCASEM_CACHE", str(cache))


@pytest.fixture
def mongomock_store(tmp_path: Path) -> MongoStore:
    import mongomock
    from mongomock.gridfs import enable_gridfs_integration

    enable_gridfs_integration()
    return MongoStore(mongomock.MongoClient()["incasem_trainings"], "trainings", tmp_path / "runs", "mongomock")


@pytest.fixture
def server_store(fresh_mongo_url: str, tmp_path: Path) -> Iterator[MongoStore]:
    address = parse_address(fresh_mongo_url, tmp_path)
    assert isinstance(address, MongoAddress)
    store = connect(address, "trainings", tmp_path / "runs")
    yield store
    store.database.client.close()


@pytest.fixture(params=["files", "mongomock", pytest.param("server", marks=pytest.mark.mongo)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    """A fresh store for trainings, of each sort in turn; its runs directory is tmp_path/runs."""
    if request.param == "files":
        return open_store(tmp_path / "runs" / "tracking", "trainings", tmp_path / "runs")
    found: RunStore = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture(params=["mongomock", pytest.param("server", marks=pytest.mark.mongo)])
def database(request: pytest.FixtureRequest) -> MongoStore:
    """A fresh store for trainings that is a database; its runs directory is tmp_path/runs."""
    found: MongoStore = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def elsewhere(tmp_path: Path) -> RunStore:
    """A store of files with another runs directory."""
    return open_store(None, "trainings", tmp_path / "elsewhere")


@pytest.fixture
def start_python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python on a piece of code in a process of its own; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def small_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs keep three small files in place of the package's many."""
    import incasem_like

    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__", "one", "two"):
        (package / f"{name}.py").write_text(f"# {name}")
    monkeypatch.setattr(incasem_like, "__file__", str(package / "__init__.py"))


@pytest.fixture
def write_run() -> Callable[..., None]:
    """Put a document into a store as it stands, as another program or an older version may have written it."""
    return _write_run


def _write_run(store: RunStore, run_id: int, **fields: Any) -> None:
    document: dict[str, Any] = {
        "status": "COMPLETED",
        "command": "train",
        "experiment": {"name": "train", "sources": []},
        "host": {"hostname": "elsewhere"},
        "meta": {"options": {}},
        "start_time": datetime(2026, 1, 1, 12, 0, 0),
        "stop_time": None,
        "heartbeat": datetime(2026, 1, 1, 12, 0, 10),
        "config": {},
        "info": {},
        "artifacts": [],
        "resources": [],
        **fields,
    }
    if isinstance(store, MongoStore):
        store.database["runs"].insert_one({"_id": run_id, **document})
        return
    assert isinstance(store, FileStore)
    directory = store.folder / str(run_id)
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("config", document.pop("config")), ("info", document.pop("info")), ("run", document)):
        (directory / f"{name}.json").write_text(json.dumps(part, default=datetime.isoformat))
