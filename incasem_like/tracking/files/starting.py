"""The start of a run kept as files: a folder and id for a new one, and taking up one that is to be continued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incasem_like.errors import RunNotFoundError, StoreError
from incasem_like.tracking.files.exclusive import exclusive
from incasem_like.tracking.files.layout import METRICS_LOG, write_whole
from incasem_like.tracking.metrics_log import AlreadyWrittenError, MetricsLog
from incasem_like.tracking.metrics_log_reading import base_of
from incasem_like.tracking.recording.sessions import (
    Continuation,
    OpenedRun,
    Start,
    begin_metrics,
    continued_meta,
    describe_session,
    how_it_ended,
    id_taken,
    new_token,
    noted_by_the_run,
    resume_metrics,
    still_going_on,
)
from incasem_like.tracking.series import MetricTable

HIGHEST_ID = "highest_id"
_OF_THE_END = ("stop_time", "fail_trace", "result")


def make_run_folder(folder: Path, wanted: int | None, id_above: int = 0) -> Path:
    """Make the folder of a new run below a store's folder.

    Args:
        folder: The store's; made where it is missing.
        wanted: The id that was asked for; None for the next one, above all that ever were.
        id_above: The next one is above this too.

    Raises:
        InputError: There is a run of the wanted id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        highest = highest_id(folder)
        run_id = max(highest, id_above) + 1 if wanted is None else wanted
        try:
            (folder / str(run_id)).mkdir()
        except FileExistsError:
            raise id_taken(run_id, str(folder)) from None
        if run_id > highest:
            _note(folder, run_id)
    return folder / str(run_id)


def note_id(folder: Path, run_id: int) -> None:
    """Note that an id is used, whatever becomes of its run."""
    with exclusive(folder):
        if run_id >= highest_id(folder):
            _note(folder, run_id)


def _note(folder: Path, run_id: int) -> None:
    write_whole(folder / HIGHEST_ID, lambda file: file.write(f"{run_id}\n".encode()))


def highest_id(folder: Path) -> int:
    """Find the highest id that a store of files ever gave, to runs that were deleted since too."""
    file = folder / HIGHEST_ID
    noted = file.read_text().strip() if file.is_file() else ""
    present = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    return max([0, *present, *([int(noted)] if noted.isdecimal() else [])])


def open_new(directory: Path, start: Start, limit: int) -> OpenedRun:
    """Begin the record of a new run in its folder; the observer writes it.

    Args:
        directory: The run's, empty.
        start: What is to be recorded.
        limit: Points of each metric in the store.
    """
    token = new_token()
    log = MetricsLog(directory / METRICS_LOG)
    log.open()
    entry: dict[str, Any] = {
        "experiment": start.ex_info,
        "command": start.command,
        "host": start.host_info,
        "start_time": start.start_time.isoformat(),
        "meta": start.meta_info,
        "status": "RUNNING",
        "resources": [],
        "artifacts": [],
        "heartbeat": None,
        "session": token,
    }
    return OpenedRun(entry, begin_metrics(log, token, limit), [describe_session(token, start)])


def take_up(directory: Path, start: Start, continuation: Continuation, limit: int) -> OpenedRun:
    """Take a run that is over from its folder, so that this process goes on with it; the observer writes it.

    Args:
        directory: The run's.
        start: What surrounds the process that goes on.
        continuation: The run and the iteration it goes on from.
        limit: Points of each metric in the store.

    Raises:
        RunNotFoundError: There is no such run.
        InputError: The run still goes on.
    """
    run_id, description = continuation.run_id, str(directory.parent)
    if not (directory / "run.json").is_file():
        raise RunNotFoundError(f"There is no run {run_id} in {description} to continue: name one that is there.")
    log = MetricsLog(directory / METRICS_LOG)
    try:
        log.open()
    except AlreadyWrittenError:
        raise still_going_on(run_id, description, _read(directory / "run.json").get("host") or {}) from None
    try:
        before, info = _read(directory / "run.json"), _read(directory / "info.json")
        ended = how_it_ended(before, run_id, description, lambda: _read(directory / "run.json"))
        iteration = continuation.iteration  # not before: it may be looked up in the run
        if log.is_empty:
            log.add_marker(base=_base(_read(directory / "metrics.json"), info))
        token = new_token()
        metrics = resume_metrics(log, token, iteration, info, limit)
    except BaseException:
        log.close()
        raise
    entry: dict[str, Any] = {
        **{key: value for key, value in before.items() if key not in _OF_THE_END},
        "host": start.host_info,
        "meta": continued_meta(before.get("meta"), start.meta_info),
        "status": "RUNNING",
        "session": token,
    }
    session = {**describe_session(token, start, iteration), "before": ended}
    output = directory / "cout.txt"
    printed = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    sessions = [*(info.get("sessions") or ()), session]
    return OpenedRun(entry, metrics, sessions, noted_by_the_run(info), printed)


def _base(metrics: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a log with the metrics of a run that has none, since Sacred itself or an import wrote it."""
    table = MetricTable()
    table.limit = max([table.limit, *(len(metric["steps"]) for metric in metrics.values())])
    for name, metric in metrics.items():
        table.put(name, metric, (info.get("summary") or {}).get(name))
    return base_of(table)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreError(f"The run record {path} is damaged ({error}): restore it from a backup.") from None
    return content if isinstance(content, dict) else {}
