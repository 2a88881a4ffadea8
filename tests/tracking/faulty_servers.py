"""What tests of servers that fail share: patience, a watch on what it costs, and the comparison with the full log."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from incasem_like.tracking import Run
from incasem_like.tracking.metrics_log import read_log
from incasem_like.tracking.stores.mongo import MongoStore


def assert_equal_to_the_log(store: MongoStore, run_id: int = 1, limit: int = 50) -> None:
    """Hold every number in the database against the log at full resolution."""
    log = store.metrics_log(run_id)
    assert log is not None
    full = read_log(log)
    documents = {entry["name"]: entry for entry in store.database["metrics"].find({"run_id": run_id})}
    assert set(documents) == set(full)
    for name, metric in full.items():
        stride, count = 1, len(metric.steps)
        while len(kept := sorted({*range(0, count, stride), count - 1})) > limit:
            stride *= 2
        found = documents[name]
        assert (found["stride"], found["count"]) == (stride, count)
        assert found["steps"] == [metric.steps[index] for index in kept]
        assert found["values"] == [metric.values[index] for index in kept]
        moments = [metric.timestamps[index].replace(tzinfo=None) for index in kept]
        assert all(
            abs(one - other) < timedelta(milliseconds=1)
            for one, other in zip(found["timestamps"], moments, strict=True)
        )
    links = store.database["runs"].find_one({"_id": run_id})["info"]["metrics"]
    assert {link["name"]: link["id"] for link in links} == {name: str(documents[name]["_id"]) for name in documents}


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


class Stopwatch:
    """Adds up what the calls of a run's methods take, to see whether anything held the run up again and again."""

    def __init__(self, run: Run) -> None:
        self.run, self.total = run, 0.0

    def __call__(self, method: str, *arguments: Any) -> None:
        start = time.perf_counter()
        getattr(self.run, method)(*arguments)
        self.total += time.perf_counter() - start
