"""Runs that are interrupted and continued in tests, and what a store holds of them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from incasem_like.tracking import Run, RunStore, run_experiment
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

EMPTY: dict[str, Any] = {}


def track(store: RunStore, main: Callable[[Run], Any], **options: Any) -> Any:
    return run_experiment(**{"name": "train", "config": EMPTY, "main": main, "store": store, **options})


def logging_up_to(last: int, first: int = 1, then: Callable[[], Any] = lambda: None) -> Callable[[Run], Any]:
    def main(run: Run) -> Any:
        for step in range(first, last + 1):
            run.log_scalar("loss", 1 / step, step)
            if step % 10 == 0:
                run.log_scalar("dice", step / 100, step)
        print(f"was at {last}")
        return then()

    return main


def interrupt() -> None:
    raise KeyboardInterrupt


def interrupted(store: RunStore, last: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        track(store, logging_up_to(last, then=interrupt), **options)


def stored(store: RunStore) -> dict[str, Any]:
    """What the store itself holds of run 1's metrics, times left out."""
    if isinstance(store, FileStore):
        found = json.loads((store.folder / "1" / "metrics.json").read_text())
        return {name: (found[name]["steps"], found[name]["values"], found[name]["stride"]) for name in found}
    assert isinstance(store, MongoStore)
    documents = store.database["metrics"].find({"run_id": 1})
    return {entry["name"]: (entry["steps"], entry["values"], entry["stride"]) for entry in documents}
