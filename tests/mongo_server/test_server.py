"""The servers that other tests lean on: what was acknowledged survives, faults are the ones asked for."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pymongo
import pymongo.errors
import pytest
from mongo_server import server as server_module
from mongo_server.fixtures import KillableServer
from mongo_server.server import FOLDER, ServerMissingError, build

# A server that was lost is looked for twice a second; one that has just started has all of its code still to load
QUICK = {"serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000, "socketTimeoutMS": 3000}
SECONDS_TO_ANSWER = 60.0
Found = TypeVar("Found")

pytestmark = pytest.mark.mongo


@contextlib.contextmanager
def connected(url: str, **options: Any) -> "Iterator[pymongo.MongoClient[Any]]":
    """A client that gives up soon, once the server has answered it."""
    with pymongo.MongoClient(url, **QUICK, **options) as client:
        _asked_until_answered(lambda: client.admin.command("ping"))
        yield client


def _asked_until_answered(ask: Callable[[], Found]) -> Found:
    """Ask again while the client still looks for its server, or gives up connections of before."""
    deadline = time.monotonic() + SECONDS_TO_ANSWER
    while True:
        try:
            return ask()
        except pymongo.errors.AutoReconnect:
            assert time.monotonic() < deadline, "no answer"
            time.sleep(0.02)


def test_what_was_acknowledged_survives_kill_9_and_is_served_at_the_same_address(
    killable_server: KillableServer,
) -> None:
    with connected(killable_server.direct_url) as client:
        for number in range(50):
            client["incasem_trainings"]["runs"].insert_one({"_id": number})
        killable_server.kill()
        with pytest.raises(pymongo.errors.ConnectionFailure):
            client["incasem_trainings"]["runs"].insert_one({"_id": 50})
        killable_server.restart()
        assert _asked_until_answered(lambda: client["incasem_trainings"]["runs"].count_documents({})) == 50


def test_a_suspended_server_answers_again_when_it_is_resumed(killable_server: KillableServer) -> None:
    with connected(killable_server.direct_url) as client:
        client["a"]["b"].insert_one({"_id": 1})
        killable_server.mongo.suspend()
        with pytest.raises(pymongo.errors.NetworkTimeout):
            client["a"]["b"].insert_one({"_id": 2})
        killable_server.mongo.resume()
        assert _asked_until_answered(lambda: client["a"]["b"].find_one({"_id": 1})) == {"_id": 1}


def test_the_proxy_delays_hangs_and_cuts(killable_server: KillableServer) -> None:
    proxy = killable_server.proxy
    with connected(killable_server.url, retryReads=False) as client:
        things = client["a"]["b"]
        things.insert_one({"_id": 1})
        proxy.delay = 0.1
        start = time.monotonic()
        assert things.find_one() == {"_id": 1}
        assert time.monotonic() - start >= 0.2
        proxy.restore()
        proxy.hang()
        with pytest.raises(pymongo.errors.AutoReconnect):  # timed out, or cancelled by the client's own watch
            things.find_one()
        proxy.restore()
        assert _asked_until_answered(things.find_one) == {"_id": 1}
        proxy.cut()
        with pytest.raises(pymongo.errors.ConnectionFailure):
            things.find_one()
        proxy.restore()
        assert _asked_until_answered(things.find_one) == {"_id": 1}


def test_the_server_ends_with_a_process_that_is_killed(killable_server: KillableServer, tmp_path: Path) -> None:
    code = f"""
        import sys, time
        sys.path.insert(0, {str(FOLDER.parent)!r})
        from pathlib import Path
        from mongo_server.server import LocalMongo
        server = LocalMongo(Path({str(tmp_path / "orphan.h2")!r}))
        server.start()
        print(server.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 60
    while not _has_ended(server):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _has_ended(process: psutil.Process) -> bool:
    """Say whether a process has ended, whether or not somebody has fetched its exit status."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("missing", ["java", "mvn"])
def test_what_the_server_needs_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server_module.shutil, "which", lambda name: None if name == missing else os.path.join("/usr/bin", name)
    )
    with pytest.raises(ServerMissingError, match=r"needs (Java 17|Maven) .* or INCASEM_TEST_MONGO_URL"):
        build()
