"""Writing a foreign training into a store, as a run from another store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.metrics_log import MetricsLog
from incasem_like.tracking.model.checkpoints import highest_number
from incasem_like.tracking.run_folder import (
    ANNOTATIONS,
    FORMAT,
    MANIFEST,
    METRICS_LOG,
    VERSION,
    PortableRun,
    RenewedIds,
    artifact_file_name,
)
from incasem_like.tracking.series import max_points
from incasem_like.tracking.sessions import Start, begin_metrics, describe_session, new_token
from incasem_like.tracking.values import plain

if TYPE_CHECKING:
    from incasem_like.pretrained.foreign import ForeignRun
    from incasem_like.tracking.series import Metric
    from incasem_like.tracking.stores.base import RunStore

_TIMES = ("start_time", "stop_time", "heartbeat")
_FILES_OF_THEIR_OWN = ("config", "info", "captured_out")


def write_run(run: ForeignRun, store: RunStore, run_id: int | None, note: Callable[[int], Mapping[str, Any]]) -> int:
    """Write a training as a finished run, atomically.

    Args:
        run: The training.
        store: The store to write to.
        run_id: Its id there; None for the store's next one.
        note: Returns, for the id of the run, what to add to its own ``info``.

    Returns:
        Its id.

    Raises:
        DataError: Its source is damaged.
        InputError: A run of that id exists.
        StoreError: The store cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="incasem-import-") as temporary:
        portable = _portable(run, Path(temporary), store)
        above = highest_number(store.runs_directory)
        result = portable.document.get("result")
        return store.put(portable, run_id, above, lambda found: RenewedIds({**portable.info, **note(found)}, result))


def _portable(run: ForeignRun, folder: Path, store: RunStore) -> PortableRun:
    """Convert a training to an exported run; everything is read before a store is changed."""
    token = new_token()
    document = run.document
    summary = _write_metrics(run.metrics, folder, token, max_points(document["config"]))
    info = {**document["info"], "summary": summary, "sessions": [_session(document, token)]}
    written = {key: value for key, value in document.items() if key not in _FILES_OF_THEIR_OWN}
    written |= {key: _text(document[key]) for key in _TIMES}
    written |= {"session": token, "resources": [], "artifacts": list(run.artifacts)}
    written["experiment"] = {**document["experiment"], "sources": _write_sources(run, folder)}
    for name, content in run.artifacts.items():
        (folder / artifact_file_name(name)).write_bytes(content)
    (folder / "cout.txt").write_text(document["captured_out"], encoding="utf-8", errors="replace")
    noted = {"tags": list(run.tags), "notes": run.notes} if run.tags or run.notes else {}
    manifest = {"format": FORMAT, "version": VERSION, "kind": store.kind, "id": run.id or 0, "store": run.identity}
    for file, values in (
        ("run.json", written),
        ("config.json", document["config"]),
        ("info.json", info),
        (ANNOTATIONS, noted),
        (MANIFEST, {**manifest, "files": {}}),
    ):
        (folder / file).write_text(json.dumps(plain(values)), encoding="utf-8")
    return PortableRun(folder)


def _write_metrics(metrics: Mapping[str, Metric], folder: Path, token: str, limit: int) -> dict[str, Any]:
    """Write the metrics, all as a log and a bounded part in the store's format; return their summaries."""
    log = MetricsLog(folder / METRICS_LOG)
    log.open()
    try:
        taken = begin_metrics(log, token, limit)
        taken.take({name: _columns(metric) for name, metric in metrics.items()})
    finally:
        log.close()
    (folder / "metrics.json").write_text(json.dumps(plain(taken.table.as_documents())), encoding="utf-8")
    return taken.table.summary


def _write_sources(run: ForeignRun, folder: Path) -> list[list[str]]:
    entries = []
    for number, (name, content) in enumerate(run.sources.items()):
        path = folder / "_sources" / str(number) / (Path(name).name or "source")
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        entries.append([name, path.relative_to(folder).as_posix()])
    return entries


def _session(document: Mapping[str, Any], token: str) -> dict[str, Any]:
    start = Start(
        document["experiment"],
        document["command"],
        document["host"],
        _naive(document["start_time"]),
        document["config"],
        document["meta"],
    )
    return describe_session(token, start)


def _columns(metric: Metric) -> dict[str, list[Any]]:
    return {
        "steps": list(metric.steps),
        "values": list(metric.values),
        "timestamps": [_naive(moment) for moment in metric.timestamps],
    }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else _naive(moment).isoformat()


def _naive(moment: datetime | None) -> datetime:
    """Return a time in the form of Sacred's observers: UTC without time zone."""
    return (moment or datetime.now(UTC)).astimezone(UTC).replace(tzinfo=None)
