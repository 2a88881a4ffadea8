"""Fixtures of a MongoDB server: one for the whole session, and one to be killed, restarted, delayed and cut."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from mongo_server.guard import Guard
from mongo_server.proxy import Proxy
from mongo_server.server import LocalMongo, ServerMissingError

SERVER = "INCASEM_TEST_MONGO_URL"


@dataclass(frozen=True)
class KillableServer:
    """A server of one test's own.

    Attributes:
        mongo: The server: ``kill``, ``stop`` and ``start`` again on the same file and port, ``suspend``, ``resume``.
        proxy: What stands before it: ``delay``, ``hang``, ``cut``, ``restore``.
    """

    mongo: LocalMongo
    proxy: Proxy

    @property
    def direct_url(self) -> str:
        """Address of the server itself."""
        return self.mongo.url

    @property
    def url(self) -> str:
        """Address by way of the proxy."""
        return self.proxy.url

    def kill(self) -> None:
        """End the server as ``kill -9`` does."""
        self.mongo.kill()

    def restart(self) -> None:
        """Start the server again, on the same file and port; kills it before if it runs."""
        self.mongo.kill()
        self.mongo.start()


@pytest.fixture(scope="session")
def mongo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL, without a database, of the server that INCASEM_TEST_MONGO_URL names, else of one started here."""
    if named := os.environ.get(SERVER):
        yield named if "://" in named else f"mongodb://{named}"
        return
    server = LocalMongo(tmp_path_factory.mktemp("mongo") / "data.h2")
    _start_or_skip(server)
    yield server.url
    server.stop()


@pytest.fixture
def fresh_mongo_url(mongo_url: str) -> Iterator[str]:
    """URL on which no database of ours exists yet, as a person would type it; its databases are dropped afterwards.

    It ends in ``/test_…_trainings``, so that each kind of run has a database of that prefix.
    """
    import pymongo

    prefix = f"test_{uuid.uuid4().hex[:12]}"
    parts = urlsplit(mongo_url)
    yield urlunsplit(parts._replace(path=f"/{prefix}_trainings"))
    with pymongo.MongoClient(mongo_url, serverSelectionTimeoutMS=2000) as client:
        for name in client.list_database_names():
            if name.startswith(prefix):
                client.drop_database(name)


@pytest.fixture
def guarded_server(fresh_mongo_url: str) -> Iterator[Guard]:
    """A gate that asks for the user ``ada`` and a password with signs that URLs escape; for ``fresh_mongo_url``."""
    if os.environ.get(SERVER):
        pytest.skip(f"needs a server of its own before which a gate can stand, so {SERVER} must not be set")
    port = urlsplit(fresh_mongo_url).port
    assert port is not None
    guard = Guard(port, "ada", "s3cret/@:%")
    yield guard
    guard.close()


@pytest.fixture
def killable_server(tmp_path: Path) -> Iterator[KillableServer]:
    """A server of the test's own, never the one that INCASEM_TEST_MONGO_URL names."""
    server = LocalMongo(tmp_path / "killable_server.h2")
    _start_or_skip(server)
    proxy = Proxy(server.port)
    yield KillableServer(server, proxy)
    proxy.close()
    server.kill()


def _start_or_skip(server: LocalMongo) -> None:
    try:
        server.start()
    except ServerMissingError as reason:
        pytest.skip(str(reason))
