"""A run whose machine's clock is behind: it looks dead to others, and is neither taken nor closed nor deleted."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from incasem_like.disk import write_whole
from incasem_like.errors import IncasemError, InputError
from incasem_like.tracking import Continuation, RunStore, delete_run, run_experiment
from incasem_like.tracking import liveness as watching
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
BEHIND = datetime(2026, 1, 1, 12)


def running(store: RunStore, write_run: WriteRun, run_id: int = 1, **fields: Any) -> None:
    """Put a run of another machine into a store whose clock says that it is a day in the far past."""
    session = {"session": f"theirs{run_id}", "info": {"sessions": [{"token": f"theirs{run_id}"}]}}
    write_run(store, run_id, status="RUNNING", start_time=BEHIND, heartbeat=BEHIND, **session, **fields)


def beat_once(store: RunStore, run_id: int, moment: datetime) -> None:
    if isinstance(store, MongoStore):
        store.database["runs"].update_one({"_id": run_id}, {"$set": {"heartbeat": moment}})
        return
    assert isinstance(store, FileStore)
    path = store.folder / str(run_id) / "run.json"
    text = json.dumps({**json.loads(path.read_text()), "heartbeat": moment.isoformat()})
    write_whole(path, lambda file: file.write(text.encode()))


@contextmanager
def beating(store: RunStore, run_id: int = 1) -> Iterator[None]:
    """Write heartbeats by a clock that is behind, as the run's own machine would."""
    stopped = threading.Event()

    def beat() -> None:
        moment = BEHIND
        while not stopped.wait(0.05):
            moment += timedelta(seconds=10)
            beat_once(store, run_id, moment)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch for long enough to see a beat on a busy machine; it ends with the first that is seen."""
    monkeypatch.setattr(watching, "SECONDS_TO_WATCH", 20.0)
    monkeypatch.setattr(watching, "_LOOKS", 400)


def take(store: RunStore) -> Any:
    return run_experiment(name="train", config={}, main=lambda run: "mine", store=store, continues=Continuation(1, 0))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "act",
    [
        pytest.param(take, id="continue"),
        pytest.param(lambda store: store.set_killed(1), id="close"),
        pytest.param(lambda store: delete_run(store, 1), id="delete"),
        pytest.param(lambda store: store.note(1, {"a": 1}), id="note"),
    ],
)
def test_a_run_that_beats_by_a_clock_that_is_behind_is_let_alone(
    store: RunStore, write_run: WriteRun, act: Callable[[RunStore], Any]
) -> None:
    running(store, write_run)
    assert store.get(1).status == "KILLED", "by the clocks alone"
    with beating(store), pytest.raises(InputError, match=r"Run 1 in .* is still running"):
        act(store)
    record = store.get(1)
    assert (record.recorded_status, record.document["session"], record.info) == (
        "RUNNING",
        "theirs1",
        {"sessions": [{"token": "theirs1"}]},
    )


def test_a_run_that_nobody_writes_is_watched_and_taken(
    store: RunStore, write_run: WriteRun, caplog: pytest.LogCaptureFixture
) -> None:
    running(store, write_run)
    with caplog.at_level(logging.WARNING):
        assert take(store) == "mine"
    assert store.get(1).status == "COMPLETED"
    told = [line for line in caplog.messages if "watching for" in line]
    assert len(told) == 1, caplog.messages


def test_several_runs_are_watched_at_once_and_only_once(
    store: RunStore, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = []
    working = watching.watch
    monkeypatch.setattr(watching, "watch", lambda look, who: [watched.append(who), working(look, who)][1])
    for run_id in (1, 2, 3):
        running(store, write_run, run_id)
    write_run(store, 4)
    assert store.heard_of([1, 2, 3, 4]) == set()
    assert watched == [f"Runs 1, 2, 3 in {store.description}"]
    store.set_killed(1)
    delete_run(store, 2)
    assert len(watched) == 1, "what was silent then is silent now: it shows the same signs"
    beat_once(store, 3, BEHIND + timedelta(seconds=10))
    store.set_killed(3)
    assert watched[1:] == [f"Run 3 in {store.description}"]


def test_a_run_that_is_deleted_while_it_is_watched_is_gone(
    store: RunStore, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(store, write_run)
    other = type(store).__new__(type(store))
    other.__dict__.update(store.__dict__, _silent={})

    def meanwhile(seconds: float) -> None:
        if other.find(1) is not None:
            monkeypatch.setattr(watching, "time", time)
            delete_run(other, 1)

    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=time.monotonic, sleep=meanwhile))
    with pytest.raises(IncasemError):
        store.set_killed(1)
    assert store.ids() == []


def test_lists_and_records_wait_for_nobody(
    store: RunStore, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(store, write_run)
    monkeypatch.setattr(watching, "watch", lambda look, who: pytest.fail(f"waited for {who}"))
    assert [run.status for run in store.summaries()] == ["KILLED"]
    assert store.get(1).status == "KILLED"
