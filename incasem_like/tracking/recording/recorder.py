"""Running a piece of work as a tracked experiment."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from incasem_like.tracking.recording.claim import claimed
from incasem_like.tracking.recording.run import Run, handling_signals
from incasem_like.tracking.recording.surroundings import describe_experiment, describe_process
from incasem_like.tracking.recording.writer import RunWriter
from incasem_like.tracking.series import max_points
from incasem_like.tracking.sessions import Continuation, Start
from incasem_like.tracking.stores.base import RunStore
from incasem_like.tracking.values import plain, without_credentials

if TYPE_CHECKING:
    from sacred.observers import RunObserver

Result = TypeVar("Result")
SECONDS_TO_CLOSE = 5.0


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
    observers: Sequence[RunObserver] = (),
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
            from incasem_like.tracking.mirror.live import Mirror
            from incasem_like.tracking.stores.mongo import MongoStore

            assert isinstance(store, MongoStore)
            if continues is None:
                store.begin_columns()
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
        datetime.now(UTC).replace(tzinfo=None),
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
