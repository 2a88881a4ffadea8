"""A blockwise task inside a Dask worker: unpickled and set up once, then run batch by batch.

The outcome of each block is sent as an event, not as the result of a Dask task: a result stays on the worker until it
is fetched and would be lost with it. The number of a block is written to a file of the job before it is begun, so that
a block that kills its process is known, and no other block is blamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import spawn
from pathlib import Path
from typing import Any, NamedTuple

from distributed import Worker as DaskWorker
from distributed import WorkerPlugin, get_worker

from incasem_like.blockwise.call import BlockError
from incasem_like.blockwise.task import WorkItem, WorkTask
from incasem_like.blockwise.worker import BROKEN, PREFETCHED, TIMED_OUT, Worker
from incasem_like.errors import DiskFullError, IncasemError, InputError

LEAVING = threading.Event()  # set when this process should end after the current blocks
THREADS_OF_A_STAGED_TASK = PREFETCHED + 2  # one block is computed, one written
SECONDS_TOGETHER = 0.05  # results that arrive within this time are sent in one event
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_SET_UP = 600.0
SET_UP = -1  # in place of the number of a block
BYTES_OF_MARKS = 1024  # so that a shorter text replaces a longer one


class TaskPlugin(WorkerPlugin):  # type: ignore[misc]
    """A task in the workers of a cluster, including those that join later.

    A task that prefetches runs in several of Dask's threads. Each reads and writes blocks of its own; all compute in
    one further thread, as devices require. The blocks of other tasks run one after another.

    Args:
        task: The task.
        name: Name of the plugin, and topic of the events that it sends.
        folder: Folder of the job, for the files of marks.
        time_limit: Seconds that a block may take before the process ends itself.
        owned: Whether processes were started for this job, so that one may end if it cannot set up the task.

    Raises:
        IncasemError: The task cannot be sent.
    """

    def __init__(self, task: WorkTask, name: str, folder: Path, time_limit: float, owned: bool) -> None:
        self.name, self._folder, self.time_limit, self._owned = name, folder, time_limit, owned
        try:
            self._payload = pickle.dumps(task)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise IncasemError(
                f"The task {task.name} cannot be sent to workers ({error}): its functions must stand at the top level "
                "of a module, its parameters be plain values."
            ) from error
        self._main = _main_module() if b"__main__" in self._payload else {}
        self._sys_path = [path or os.getcwd() for path in sys.path]

    def setup(self, worker: DaskWorker) -> None:
        """Prepare the task, which its first batch then sets up; see ``WorkerPlugin``."""
        name = str(worker.name)  # of a worker that was started with a suffix, see ``worker_process``
        self._name, self._ended = name.rpartition(".")[0] if self._owned else name, False
        self._worker: Worker | None = None
        self._gate = threading.Lock()  # batches begin one by one
        self._free, self._threads = threading.Semaphore(), 1
        self._computing = ThreadPoolExecutor(1, "compute")
        self._marks = _Marker(marks_file(self._folder, worker.address), self.time_limit)
        self._events = _Events(worker, self.name)
        threading.Thread(target=self._watch, name="blocks", daemon=True).start()

    def teardown(self, worker: DaskWorker) -> None:
        """Run no further blocks, and free the result of the set-up; see ``WorkerPlugin``."""
        self._ended, self._worker = True, None

    def run(self, numbers: Sequence[int], alone: bool) -> None:
        """Run a batch; see ``run_batch``."""
        with self._gate:
            if self._worker is None and not self._ended:
                self._worker = self._set_up()
                self._threads = THREADS_OF_A_STAGED_TASK if self._worker.task.staged else 1
                self._free = threading.Semaphore(self._threads)
            share = self._threads if alone else 1
            for _ in range(share):
                self._free.acquire()
        try:
            for number in numbers:
                if (worker := self._worker) is None or LEAVING.is_set():
                    return
                began, error = time.monotonic(), None
                try:
                    self._run_block(worker, number)
                except Exception as failure:
                    error = BlockError.of(failure, self._name)
                self._events.result(number, time.monotonic() - began, error)
        finally:
            self._free.release(share)
            self._events.send()

    def _set_up(self) -> Worker:
        """Unpickle and set up the task; on failure end the process, or the whole call if every worker would fail."""
        try:
            with self._marks.of(SET_UP):
                sys.path += [path for path in self._sys_path if path not in sys.path]
                if self._main:
                    spawn.prepare(self._main)
                worker = Worker(pickle.loads(self._payload), None, self._events.advance)
        except Exception as error:
            known = BlockError.of(error, self._name)
            if self._owned and not isinstance(known.error, InputError | DiskFullError):
                print(known.trace, file=sys.stderr, flush=True)
                os._exit(BROKEN)  # it may work on another machine
            self._events.post({"broken": pickle.dumps(known.error)})
            raise
        self._events.post({"ready": True})
        return worker

    def _run_block(self, worker: Worker, number: int) -> None:
        with self._marks.of(number):
            block = worker.read(number)
            if not worker.task.staged:
                worker.write(block, worker.compute(block))
                return
        result = self._computing.submit(self._compute, worker, block).result()
        with self._marks.of(number):
            worker.write(block, result)

    def _compute(self, worker: Worker, block: WorkItem) -> Any:
        with self._marks.of(block.number):
            return worker.compute(block)

    def _watch(self) -> None:
        """End the process when a block, or the set-up, takes too long; send what waits to be sent."""
        while not self._ended:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if self._marks.overdue():
                os._exit(TIMED_OUT)
            self._events.send()


def _main_module() -> dict[str, str]:
    """Return how a worker imports the script itself, if that defines the function; see ``multiprocessing.spawn``."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path = getattr(main, "__file__", None)
    return {} if path is None else {"init_main_from_path": os.path.abspath(path)}


def run_batch(topic: str, numbers: list[int], alone: bool) -> None:
    """Run blocks of the task that the plugin ``topic`` brought, one that is ``alone`` beside no other.

    Blocks that are neither done nor failed at the end are left to other workers.
    """
    plugin: TaskPlugin = get_worker().plugins[topic]
    plugin.run(numbers, alone)


class Marks(NamedTuple):
    """The blocks that a process is working on, or was when it ended."""

    began: dict[int, float]  # when each began, as by time.time
    overdue: int | None  # the block that took longer than its time limit, if that ended the process


def marks_file(folder: Path, address: str) -> Path:
    """Return the path of the marks of a worker."""
    return folder / "at" / re.sub(r"\W+", "_", address)


def read_marks(folder: Path, address: str) -> Marks | None:
    """Read which blocks a worker is working on; None where it cannot write its marks."""
    try:
        began, overdue = json.loads(marks_file(folder, address).read_bytes())
    except (OSError, ValueError):
        return None
    return Marks({number: since for number, since in began if number != SET_UP}, None if overdue == SET_UP else overdue)


class _Marker:
    """Notes the blocks that this process is working on: in memory, and in a file that survives any end of it."""

    def __init__(self, path: Path, limit: float) -> None:
        self._limit, self._lock = limit, threading.Lock()
        self._began: dict[int, float] = {}
        self._file: int | None = None
        with contextlib.suppress(OSError):  # an existing cluster that does not share the folder of jobs
            path.parent.mkdir(exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._write()

    @contextlib.contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Note that a block, or the set-up, is being worked on for the duration of a ``with`` block."""
        with self._lock:
            self._began[number] = time.monotonic()
            self._write()
        try:
            yield
        finally:
            with self._lock:
                del self._began[number]
                self._write()

    def overdue(self) -> bool:
        """Return whether the set-up or a block takes too long; the block is noted."""
        with self._lock:
            for number, began in self._began.items():
                limit = max(SECONDS_TO_SET_UP, self._limit) if number == SET_UP else self._limit
                if time.monotonic() - began > limit:
                    self._write(number)
                    return True
        return False

    def _write(self, overdue: int | None = None) -> None:
        if self._file is not None:
            clock = time.time() - time.monotonic()
            marks = [(number, clock + began) for number, began in self._began.items()], overdue
            os.pwrite(self._file, json.dumps(marks).encode().ljust(BYTES_OF_MARKS), 0)


class _Events:
    """Events that a worker sends to the caller: ready, broken, results, and progress within blocks."""

    def __init__(self, worker: DaskWorker, topic: str) -> None:
        self._worker, self._topic = worker, topic
        self._lock = threading.Lock()
        self._results: list[tuple[int, float, BlockError | None]] = []
        self._progress: dict[int, int] = {}
        self._sent = 0.0

    def advance(self, number: int, voxels: int) -> None:
        with self._lock:
            self._progress[number] = self._progress.get(number, 0) + int(voxels)

    def result(self, number: int, seconds: float, error: BlockError | None) -> None:
        with self._lock:
            self._results.append((number, seconds, error))
            self._progress.pop(number, None)
        if time.monotonic() - self._sent > SECONDS_TOGETHER:
            self.send()

    def send(self) -> None:
        """Send the collected events."""
        with self._lock:
            if self._results or self._progress:
                self.post({"results": pickle.dumps(self._results), "progress": list(self._progress.items())})
                self._results, self._progress = [], {}

    def post(self, event: dict[str, Any]) -> None:
        """Send an event at once."""
        self._sent = time.monotonic()
        with contextlib.suppress(Exception):  # the worker is closing; its blocks are done again
            self._worker.log_event(self._topic, {"worker": str(self._worker.name), **event})
