"""A MongoDB server for benchmarks, and stock Sacred's observer of it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from incasem_like.tracking.sacred_parts import MongoObserver

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


@contextlib.contextmanager
def mongo_url(folder: Path, memory: str = "256m") -> Iterator[str | None]:
    """Give the server that INCASEM_TEST_MONGO_URL names, else one started here; None, and why, where there is none."""
    if named := os.environ.get("INCASEM_TEST_MONGO_URL"):
        yield named if "://" in named else f"mongodb://{named}"
        return
    from mongo_server.server import LocalMongo, ServerMissingError

    server = LocalMongo(folder / "mongo.h2", memory)
    try:
        server.start()
    except ServerMissingError as reason:
        print(f"MongoDB left out: {reason}")
        yield None
        return
    yield server.url
    server.stop()


def stock_mongo_observer(url: str, database: str) -> Any:
    """Make the observer as incasem does."""
    import gridfs
    import pymongo

    found = pymongo.MongoClient(url)[database]
    return MongoObserver.create_from(found["runs"], gridfs.GridFS(found), metrics_collection=found["metrics"])


def run_stock(observer: Any, main: Callable[[Any], Any]) -> Any:
    """Run something as a stock Sacred experiment, its heartbeats left to ``main``."""
    from sacred import SETTINGS, Experiment

    SETTINGS.CAPTURE_MODE = "no"
    experiment = Experiment("bench", interactive=True, save_git_info=False)
    experiment.observers.append(observer)
    found: list[Any] = []

    @experiment.main
    def work(_run: Any) -> None:
        found.append(main(_run))

    experiment.run(options={"--loglevel": "ERROR", "--beat-interval": 3600})
    return found[0]
