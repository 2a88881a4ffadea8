"""Claiming a run: a new one, or one that is resumed, so that one process alone writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from incasem_like.errors import NoAnswerError, StoreError
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
from incasem_like.tracking.stores.base import MISSING, RunStore, still_running
from incasem_like.tracking.values import as_mapping

_OF_THE_END = ("stop_time", "fail_trace", "result")
# What stores keep beside the record, or others may change meanwhile
_NOT_IN_THE_RECORD = ("_id", "revision", "config", "info", "omniboard", "captured_out", *_OF_THE_END)
_ATTEMPTS_TO_CLAIM = 5


@contextlib.contextmanager
def claimed(
    store: RunStore, continues: Continuation | None, id_above: int, limit: int, start: Start, wanted: int | None
) -> Iterator[OpenedRun]:
    """Reserve a new run, or claim one that is over, for a block that writes its first state; undone where that fails.

    Args:
        store: Where the run is kept.
        continues: The run to resume; None for a new one.
        id_above: The id of a new run is above this.
        limit: Points of each metric in the store.
        start: What surrounds the process that writes it.
        wanted: The id that was asked for; None for the next one.

    Raises:
        RunNotFoundError: The run to resume does not exist.
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
    record = store.get(run_id)
    folder = store.run_folder(run_id, tokens(record.info))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder.opening())
        except AlreadyWrittenError:
            raise still_running(record) from None
        store.push(folder, limit)  # what an outage kept back
        before, ended = stack.enter_context(_session_of(store, run_id, token, start))
        iteration = continuation.iteration  # not before: it may be looked up in the run
        info = as_mapping(before.get("info"))
        if not folder.has_points_of(tokens(info)):  # it ran elsewhere, or another program wrote it
            metrics = store.read_metric_documents(run_id)
            table = MetricTable(max([2, *(len(metric["steps"]) for metric in metrics.values())]))
            for name, metric in metrics.items():
                table.put(name, metric, as_mapping(info.get("summary")).get(name))
            folder.log.add_marker(base=base_of(table))
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
            found = store.get(run_id).document
            if found.get("session") == token:
                break
            record = store.refuse_live(run_id)
            found = before = record.document
            ended = "KILLED" if record.recorded_status == "RUNNING" else record.recorded_status
            with contextlib.suppress(NoAnswerError):  # it may have come through: the next look tells
                if store.patch(run_id, changes, {key: found.get(key) for key in ("session", "status", "heartbeat")}):
                    break
        else:
            raise StoreError(f"Run {run_id} in {store.description} changes all the time: see who writes it, try again.")
        yield before, ended
    except BaseException:
        if before:
            with contextlib.suppress(StoreError):  # impossible without a server
                store.patch(run_id, {key: before.get(key, MISSING) for key in changes}, {"session": token})
        raise
