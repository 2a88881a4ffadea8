"""Claiming a run: a new one, or one that is resumed, so that one process alone writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from incasem_like.errors import InputError, NoAnswerError, RunNotFoundError, StoreError
from incasem_like.tracking import liveness
from incasem_like.tracking.liveness import find_process, is_alive
from incasem_like.tracking.metrics_log import AlreadyWrittenError, base_of
from incasem_like.tracking.run_folder import OpenedRun
from incasem_like.tracking.series import MetricTable
from incasem_like.tracking.sessions import (
    Continuation,
    Start,
    begin_metrics,
    continued_meta,
    describe_session,
    new_token,
    noted_by_the_run,
    resume_metrics,
    tokens,
)
from incasem_like.tracking.stores.base import MISSING, RunStore
from incasem_like.tracking.values import as_mapping, utc_moment

_OF_THE_END = ("stop_time", "fail_trace", "result")
# What stores keep beside the record, or others may change meanwhile
_NOT_IN_THE_RECORD = ("_id", "revision", "config", "info", "omniboard", "captured_out", *_OF_THE_END)
_ATTEMPTS_TO_CLAIM = 5


@contextlib.contextmanager
def claimed(
    store: RunStore, continues: Continuation | None, id_above: int, start: Start, wanted: int | None, limit: int
) -> Iterator[OpenedRun]:
    """Reserve a new run, or claim one that is over, for a block that writes its first state; undone where that fails.

    Args:
        store: Where the run is kept.
        continues: The run to resume; None for a new one.
        id_above: The id of a new run is above this.
        start: What surrounds the process that writes it.
        wanted: The id that was asked for; None for the next one.
        limit: Points of each metric in the store.

    Raises:
        RunNotFoundError: There is no run to resume.
        InputError: It is still running, or a run of the wanted id exists.
        StoreError: The store cannot be written, or another process was quicker.
    """
    try:
        if continues is None:
            block = _reserved(store, id_above, start, wanted, limit)
        else:
            block = _resumed(store, continues, start, limit)
        with block as run:
            yield run
    except NoAnswerError:
        raise StoreError(
            f"{store.description} stopped answering: start the server and run the same command again, or add "
            "--offline to it."
        ) from None


@contextlib.contextmanager
def _reserved(store: RunStore, id_above: int, start: Start, wanted: int | None, limit: int) -> Iterator[OpenedRun]:
    token = new_token()
    folder = store.reserve(wanted, id_above, token)
    try:
        with folder.opening():
            paths = {name: Path(start.ex_info["base_dir"], name) for name, _ in start.ex_info["sources"]}
            sources = [[name, store.keep("sources", str(path), path)] for name, path in paths.items()]
            entry = {
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
            metrics = begin_metrics(folder.log, token, limit)
            yield OpenedRun(folder, entry, metrics, [describe_session(token, start)])
    except BaseException:
        store.discard(folder, token)
        raise


@contextlib.contextmanager
def _resumed(store: RunStore, continuation: Continuation, start: Start, limit: int) -> Iterator[OpenedRun]:
    run_id, token = continuation.run_id, new_token()
    document = _read(store, run_id)
    folder = store.run_folder(run_id, tokens(document.get("info")))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder.opening())
        except AlreadyWrittenError:
            raise _still_going_on(run_id, store.description, document.get("host") or {}) from None
        store.push(folder, limit)  # what an outage kept back
        before, ended = stack.enter_context(_session_of(store, run_id, token, start))
        iteration = continuation.iteration  # not before: it may be looked up in the run
        info = as_mapping(before.get("info"))
        if not folder.has_points_of(tokens(info)):
            folder.log.add_marker(base=_base(store.read_metric_documents(run_id), info))
        entry = {
            **{key: value for key, value in before.items() if key not in _NOT_IN_THE_RECORD},
            "host": start.host_info,
            "meta": continued_meta(before.get("meta"), start.meta_info),
            "status": "RUNNING",
            "session": token,
            "heartbeat": start.start_time,
        }
        session = {**describe_session(token, start, iteration), "before": ended}
        yield OpenedRun(
            folder,
            entry,
            resume_metrics(folder.log, token, iteration, info, limit),
            [*(info.get("sessions") or ()), session],
            noted_by_the_run(info),
            str(before.get("captured_out") or ""),
        )


@contextlib.contextmanager
def _session_of(store: RunStore, run_id: int, token: str, start: Start) -> Iterator[tuple[dict[str, Any], str]]:
    """Make a run this session's for a block that resumes it; restore it as it was where the block fails.

    Yields:
        Its document as it was, and how it had ended.
    """
    ours = {"session": token, "status": "RUNNING", "host": start.host_info, "heartbeat": start.start_time}
    changes = {**ours, **dict.fromkeys(_OF_THE_END, MISSING)}
    before: dict[str, Any] = {}
    try:
        for _ in range(_ATTEMPTS_TO_CLAIM):
            found = _read(store, run_id)
            if found.get("session") == token:
                break
            before, ended = found, how_it_ended(found, run_id, store.description, lambda: _read(store, run_id))
            with contextlib.suppress(NoAnswerError):  # it may have come through: the next look tells
                if store.patch(run_id, changes, {key: found.get(key) for key in ("session", "status", "heartbeat")}):
                    break
        else:
            raise StoreError(f"Run {run_id} in {store.description} changes all the time: see who writes it, try again.")
        yield before, ended
    except BaseException:
        if before:
            with contextlib.suppress(StoreError):  # without a server there is no way to
                store.patch(run_id, {key: before.get(key, MISSING) for key in changes}, {"session": token})
        raise


def _read(store: RunStore, run_id: int) -> dict[str, Any]:
    document = store.read_document(run_id)
    if document is None:
        raise RunNotFoundError(f"There is no run {run_id} in {store.description} to continue: name one that is there.")
    return document


def _base(metrics: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Begin a log with the metrics of a run that has none here: it ran elsewhere, or another program wrote it."""
    table = MetricTable(max([2, *(len(metric["steps"]) for metric in metrics.values())]))
    for name, metric in metrics.items():
        table.put(name, metric, as_mapping(info.get("summary")).get(name))
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
        InputError: It is still running.
    """
    status, host = str(document.get("status")), document.get("host") or {}
    if status != "RUNNING":
        return status
    heartbeat, start = utc_moment(document.get("heartbeat")), utc_moment(document.get("start_time"))
    is_heard_of = is_alive(host, heartbeat, start)
    if not is_heard_of and find_process(host, heartbeat, start) is None:
        is_heard_of = bool(
            liveness.watch(lambda: {run_id: liveness.signs_of_life(again())}, f"Run {run_id} in {description}")
        )
    if is_heard_of:
        raise _still_going_on(run_id, description, host)
    return "KILLED"


def _still_going_on(run_id: int, description: str, host: Mapping[str, Any]) -> InputError:
    where = f"process {host.get('pid', '?')} on {host.get('hostname') or 'an unknown machine'}"
    return InputError(
        f"Run {run_id} in {description} is still running ({where}): wait for its end or stop it before continuing it."
    )
