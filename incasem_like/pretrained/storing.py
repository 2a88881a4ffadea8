"""Writing a training that was recorded elsewhere into a store, as its own runs are written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.records import Metric
from incasem_like.training.folders import highest_number

if TYPE_CHECKING:
    from sacred.observers import RunObserver

    from incasem_like.pretrained.foreign import ForeignRun
    from incasem_like.tracking.store import RunStore


def write_run(run: ForeignRun, store: RunStore, run_id: int | None, info: Mapping[str, Any]) -> int:
    """Write a training as a run that is over.

    All that can fail about reading it is done before anything is written.

    Args:
        run: The training.
        store: Where it goes.
        run_id: Its id there; None for the store's next one.
        info: Noted beside what it notes itself.

    Returns:
        Its id.

    Raises:
        DataError: What it was read from is damaged.
        InputError: There is a run of that id.
        StoreError: The store cannot be written.
    """
    metrics = run.metrics()
    with tempfile.TemporaryDirectory(prefix="incasem-import-") as temporary:
        files = {}
        for number, (name, read) in enumerate(run.artifacts.items()):
            files[name] = Path(temporary) / str(number)
            files[name].write_bytes(read())
        return _write(run, store.observer(id_above=highest_number(store.runs_directory)), run_id, metrics, files, info)


def _write(
    run: ForeignRun,
    observer: RunObserver,
    run_id: int | None,
    metrics: Mapping[str, Metric],
    files: Mapping[str, Path],
    info: Mapping[str, Any],
) -> int:
    document = run.document
    found = observer.started_event(
        ex_info={**document["experiment"], "sources": []},
        command=document["command"],
        host_info=document["host"],
        start_time=_naive(document["start_time"]),
        config=document["config"],
        meta_info=document["meta"],
        _id=run_id,
    )
    try:
        observer.log_metrics({name: _points(metric) for name, metric in metrics.items()}, {})
        for name, path in files.items():
            observer.artifact_event(name, str(path))
        observer.heartbeat_event(
            {**document["info"], **info}, document["captured_out"], _naive(document["heartbeat"]), document["result"]
        )
        _end(observer, document)
    finally:
        observer.join()
    return int(found)


def _end(observer: RunObserver, document: Mapping[str, Any]) -> None:
    status, stop = document["status"], _naive(document["stop_time"] or document["heartbeat"])
    if status == "COMPLETED":
        observer.completed_event(stop, document["result"])
    elif status == "FAILED":
        observer.failed_event(stop, document["fail_trace"])
    else:
        observer.interrupted_event(stop, status)


def _points(metric: Metric) -> dict[str, list[Any]]:
    return {
        "steps": list(metric.steps),
        "values": list(metric.values),
        "timestamps": [_naive(moment) for moment in metric.timestamps],
    }


def _naive(moment: datetime | None) -> datetime:
    """Give a time as Sacred's observers take it: UTC without saying so."""
    return (moment or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
