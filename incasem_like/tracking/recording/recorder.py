"""Running a piece of work as a tracked experiment, which begins by claiming its run: one process alone writes it."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from incasem_like.errors import NoAnswerError, StoreError
from incasem_like.tracking.metrics_log import AlreadyWrittenError, base_of
from incasem_like.tracking.recording.run import Run, handling_signals
from incasem_like.tracking.recording.surroundings import describe_experiment, describe_process
from incasem_like.tracking.recording.writer import RunWriter
from incasem_like.tracking.run_folder import OpenedRun
from incasem_like.tracking.series import MetricTable, max_points
from incasem_like.tracking.sessions import (
    OBSERVER_KEYS,
    Continuation,
    Start,
    continued_meta,
    counts_at,
    describe_session,
    new_token,
    tokens,
)
from incasem_like.tracking.stores.base import MISSING, RunStore
from incasem_like.tracking.stores.records import still_running
from incasem_like.tracking.values import as_mapping, now, plain, without_credentials

Result = TypeVar("Result")
SECONDS_TO_CLOSE = 5.0
_OF_THE_END = ("stop_time", "fail_trace", "result")
# What stores keep beside the record, or others may change meanwhile
_NOT_IN_THE_RECORD = ("_id", "revision", "config", "info", "omniboard", "captured_out", *_OF_THE_END)
_ATTEMPTS_TO_CLAIM = 5


class RunTerminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM or SIGHUP; whoever cleans up after ctrl-C cleans up after this too."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


@contextlib.contextmanager
def tracked_run(
    *,
    name: str,
    config: Mapping[str, Any],
    store: RunStore | None,
    runs_directory: Path | None = None,
    run_name: str | None = None,
    comment: str | None = None,
    run_id: int | None = None,
    artifacts: Mapping[str, str | Path] | None = None,
    sources: Sequence[Path] = (),
    observers: Sequence[Any] = (),
    continues: Continuation | None = None,
    id_above: int = 0,
) -> Iterator[Run]:
    """Record a block as a run in a store; yield the ``Run`` that the block logs to.

    The record holds the configuration, what the block logs, prints and sets as ``run.result``, host, commit, packages,
    sources, artifacts and, at the end, COMPLETED, FAILED with the traceback, or INTERRUPTED.

    Args:
        name: What is run: ``train``, ``predict``.
        config: Resolved configuration as plain values; recorded without the credentials in its URLs.
        store: Where the record goes; None for a run without a record, whose id is 0.
        runs_directory: For checkpoint paths of a run without a store; otherwise the store knows it.
        run_name: The name a person gave the run (``--name``).
        comment: A remark (``--comment``).
        run_id: A wanted id (``--id``); by default the store's next one.
        artifacts: Files to keep, by name: a ``Path`` to the file, or a ``str`` that is the text itself.
        sources: Further source files to keep; the script and this package's modules are kept anyway.
        observers: Further Sacred observers.
        continues: A run of this store to resume, instead of a new one.
        id_above: The id of a new run is above this, so that it finds no files of another store's run.

    Raises:
        InputError: There is a run of the wanted id.
        StoreError: The store cannot be written.
        SystemExit: SIGTERM (status 143) or SIGHUP (129) ended the run. Whatever the block raises passes through.

    Example:
        >>> from incasem_like.tracking import open_store
        >>> store = open_store(None, "trainings", Path("training_runs"))
        >>> with tracked_run(name="train", config={"rate": 0.1}, store=store) as run:
        ...     run.log_scalar("loss", 0.25, step=1)
        ...     run.result = {"iteration": 1}
        >>> store.get(1).metrics["loss"].values, store.get(1).result
        ((0.25,), {'iteration': 1})
    """
    meta = {"command": name, "comment": comment, "options": {"--name": run_name, "--comment": comment, "--id": run_id}}
    writer = None
    if store is not None:
        mirror = None
        if store.checkpoint_files is not None:  # a database; in a store of files the run's folder is the run
            from incasem_like.tracking.mirror.live import Mirror  # pymongo takes half a second to import

            mirror = Mirror(store)
        writer = RunWriter(partial(claimed, store, continues, id_above, max_points(config)), mirror)
    shown_name = str(without_credentials(run_name or name))
    experiment: dict[str, Any] = {}
    host: dict[str, Any] = {}
    if writer or observers:
        from incasem_like.tracking.sacred_parts import get_host_info  # Sacred takes half a second to import

        experiment, host = describe_experiment(shown_name, sources), {**get_host_info([]), **describe_process()}
    start = Start(
        experiment,
        name,
        host,
        now(),
        without_credentials(plain(config)),
        without_credentials(plain(meta)),
    )
    folder = store.runs_directory if store is not None else runs_directory or Path.cwd()
    run = Run(start, shown_name, folder, writer, observers, run_id)
    with _signals_interrupt(run), run.recorded():
        for file, content in (artifacts or {}).items():
            run.add_artifact(content, file)
        run.flush()
        with run.uploading(store):
            yield run


def run_experiment(*, main: Callable[[Run], Result], **options: Any) -> Result:
    """Call a function as a run, see ``tracked_run``; what it returns is the run's result, and returned."""
    with tracked_run(**options) as run:
        result = main(run)
        run.result = result
    return result


@contextlib.contextmanager
def _signals_interrupt(run: Run) -> Iterator[None]:
    """Interrupt the run, but not its closing, on SIGINT, SIGTERM and SIGHUP; the latter two then end the process.

    Signals that follow within a few seconds are ignored: impatient fingers, and a process group that gets one twice.
    """
    last = -SECONDS_TO_CLOSE

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_TO_CLOSE:
            return
        last = time.monotonic()
        raise KeyboardInterrupt if number == signal.SIGINT else RunTerminated(number)

    try:
        with handling_signals(interrupt):
            yield
    except RunTerminated as terminated:
        name = signal.Signals(terminated.number).name
        print(f"Ended by {name}: run {run.id} is recorded as INTERRUPTED.", file=sys.stderr)
        raise SystemExit(128 + terminated.number) from None


@contextlib.contextmanager
def claimed(
    store: RunStore, continues: Continuation | None, id_above: int, limit: int, start: Start, wanted: int | None
) -> Iterator[OpenedRun]:
    """Reserve a new run, or claim one that is over, for a block that writes its first state; undone where that fails.

    Its arguments are those of ``tracked_run``, and ``limit``, the number of points of each metric in the store.
    """
    try:
        with (
            _reserved(store, id_above, start, wanted, limit)
            if continues is None
            else _resumed(store, continues, start, limit) as run
        ):
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
            folder.log.begin(token, limit)
            yield OpenedRun(folder, entry, [describe_session(token, start)])
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
            most = max([2, *(len(metric["steps"]) for metric in metrics.values())])
            folder.log.add_marker(base=base_of(MetricTable.from_documents(metrics, most, info.get("summary"))))
        entry = {
            **{key: value for key, value in before.items() if key not in _NOT_IN_THE_RECORD},
            "host": start.host_info,
            "meta": continued_meta(before.get("meta"), start.meta_info),
            "status": "RUNNING",
            "session": token,
            "heartbeat": start.start_time,
        }
        session = {**describe_session(token, start, iteration), "before": ended}
        folder.log.resume(token, iteration, counts_at(info, iteration), limit)
        yield OpenedRun(
            folder,
            entry,
            [*(info.get("sessions") or ()), session],
            {key: value for key, value in info.items() if key not in OBSERVER_KEYS},
            str(before.get("captured_out") or ""),
        )


@contextlib.contextmanager
def _session_of(store: RunStore, run_id: int, token: str, start: Start) -> Iterator[tuple[dict[str, Any], str]]:
    """Make a run this session's for a block that resumes it, or restore it; yield how it was and how it had ended."""
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
