"""Claiming a run: a new one, or one that is resumed, so that one process alone writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.tracking.liveness import find_process, is_alive
from incasem_like.tracking.metrics_log import AlreadyWrittenError, MetricsLog, RunMetrics, base_of
from incasem_like.tracking.run_folder import Begun, RunFolder
from incasem_like.tracking.series import MetricTable
from incasem_like.tracking.sessions import (
    Continuation,
    OpenedRun,
    Start,
    begin_metrics,
    continued_meta,
    describe_session,
    new_token,
    noted_by_the_run,
    resume_metrics,
)
from incasem_like.tracking.stores.base import signs_of_life, watch
from incasem_like.tracking.stores.files import keep as keep_file
from incasem_like.tracking.stores.files import make_run_folder
from incasem_like.tracking.values import as_mapping, utc_moment

if TYPE_CHECKING:
    pass

_OF_THE_END = ("stop_time", "fail_trace", "result")


def claim_in_folder(
    store: Path, continues: Continuation | None, id_above: int, start: Start, wanted: int | None, limit: int
) -> Begun:
    """Begin a run in a store of files, or claim one that is to be continued; whoever claims it writes its record.

    Args:
        store: The folder of the runs.
        continues: The run to resume; None for a new one.
        id_above: The id of a new run is above this.
        start: What surrounds the process that writes it.
        wanted: The id that was asked for; None for the next one.
        limit: Points of each metric in the store.

    Raises:
        RunNotFoundError: There is no run to resume.
        InputError: It still goes on, or there is a run of the wanted id.
    """
    if continues is not None:
        return _resume_in_folder(RunFolder(store / str(continues.run_id)), start, continues, limit)
    run, token = RunFolder(make_run_folder(store, wanted, id_above)), new_token()
    files = {name: Path(start.ex_info["base_dir"], name) for name, _ in start.ex_info["sources"]}
    kept = {name: keep_file(store / "_sources", path) for name, path in files.items()}
    sources = [[name, path.relative_to(store).as_posix()] for name, path in kept.items()]
    log = MetricsLog(run.log_path)
    log.open()
    entry = begun_entry(start, sources, token)
    return Begun(run, OpenedRun(entry, begin_metrics(log, token, limit), [describe_session(token, start)]))


def _resume_in_folder(run: RunFolder, start: Start, continuation: Continuation, limit: int) -> Begun:
    run_id, description = continuation.run_id, str(run.folder.parent)
    if not run.is_run:
        raise RunNotFoundError(f"There is no run {run_id} in {description} to continue: name one that is there.")
    log = MetricsLog(run.log_path)
    try:
        log.open()
    except AlreadyWrittenError:
        raise still_going_on(run_id, description, run.read("run.json").get("host") or {}) from None
    try:
        before, info = run.read("run.json"), run.read("info.json")
        ended = how_it_ended(before, run_id, description, lambda: run.read("run.json"))
        iteration = continuation.iteration  # not before: it may be looked up in the run
        if log.is_empty:
            log.add_marker(base=_base_of_files(run.read("metrics.json"), info))
        token = new_token()
        metrics = resume_metrics(log, token, iteration, info, limit)
    except BaseException:
        log.close()
        raise
    return Begun(run, resumed_run({**before, "info": info}, run.output, start, (token, iteration, ended), metrics))


def begun_entry(start: Start, sources: list[Any], token: str) -> dict[str, Any]:
    """Make the entry of a run that begins: its document but for configuration, info and output."""
    return {
        "experiment": {**start.ex_info, "sources": sources},
        "command": start.command,
        "host": start.host_info,
        "start_time": start.start_time,
        "meta": start.meta_info,
        "status": "RUNNING",
        "resources": [],
        "artifacts": [],
        "heartbeat": None,
        "session": token,
    }


def resumed_run(
    before: Mapping[str, Any], output: str, start: Start, session: tuple[str, int, str], metrics: RunMetrics
) -> OpenedRun:
    """Describe a run that this process resumes.

    Args:
        before: The run as it was, with what it noted under ``info``.
        output: What it has printed.
        start: What surrounds the process that resumes it.
        session: Token of the new session, the iteration it resumes from, and how the run had ended.
        metrics: Its metrics, without what was withdrawn.
    """
    token, iteration, ended = session
    info = as_mapping(before.get("info"))
    entry = {
        **{key: value for key, value in before.items() if key not in ("info", *_OF_THE_END)},
        "host": start.host_info,
        "meta": continued_meta(before.get("meta"), start.meta_info),
        "status": "RUNNING",
        "session": token,
        "heartbeat": start.start_time,
    }
    sessions = [*(info.get("sessions") or ()), {**describe_session(token, start, iteration), "before": ended}]
    return OpenedRun(entry, metrics, sessions, noted_by_the_run(info), output)


def _base_of_files(metrics: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a log with the metrics of a run that has none, since Sacred itself or an import wrote it."""
    table = MetricTable()
    table.limit = max([table.limit, *(len(metric["steps"]) for metric in metrics.values())])
    for name, metric in metrics.items():
        table.put(name, metric, (info.get("summary") or {}).get(name))
    return base_of(table)


def how_it_ended(
    document: Mapping[str, Any], run_id: int, description: str, again: Callable[[], Mapping[str, Any]]
) -> str:
    """Return the state of a run that is about to be resumed: COMPLETED, INTERRUPTED, FAILED or KILLED.

    Args:
        document: Its document; times as ISO text or datetime.
        run_id: Its id, for the message.
        again: Reads the document again; a run that is dead by the clocks of two machines alone is watched first.
        description: Of its store, for the message.

    Raises:
        InputError: It still goes on.
    """
    status, host = str(document.get("status")), document.get("host") or {}
    if status != "RUNNING":
        return status
    heartbeat, start = utc_moment(document.get("heartbeat")), utc_moment(document.get("start_time"))
    is_heard_of = is_alive(host, heartbeat, start)
    if not is_heard_of and find_process(host, heartbeat, start) is None:
        is_heard_of = bool(watch(lambda: {run_id: signs_of_life(again())}, f"Run {run_id} in {description}"))
    if is_heard_of:
        raise still_going_on(run_id, description, host)
    return "KILLED"


def still_going_on(run_id: int, description: str, host: Mapping[str, Any]) -> InputError:
    """Make the error of continuing a run that another process is writing."""
    where = f"process {host.get('pid', '?')} on {host.get('hostname') or 'an unknown machine'}"
    return InputError(
        f"Run {run_id} in {description} still goes on ({where}): wait for its end or stop it before continuing it."
    )
