"""A blockwise task inside a Dask worker: unpickled and set up once, then run batch by batch.

The outcome of each block is sent as an event, not as the result of a Dask task: a result stays on the worker until it
is fetched and would be lost with it. The number of a block is written to a file of the job before it is begun, so that
a block that kills its process is known, and no other block is blamed.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import struct
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from distributed import Worker as DaskWorker
from distributed import WorkerPlugin, get_worker

from incasem_like.blockwise.queue import BlockError
from incasem_like.blockwise.stages import COMPUTING, NOTHING, Read, Stages
from incasem_like.blockwise.task import WorkTask
from incasem_like.blockwise.worker import Worker, describe_error
from incasem_like.blockwise.worker_process import BROKEN, TIMED_OUT
from incasem_like.errors import DiskFullError, InputError

LEAVING = threading.Event()  # set when this process should end after the current block
SECONDS_TOGETHER = 0.05  # results that arrive within this time are sent in one event
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_SET_UP = 600.0
SLOTS = 4  # numbers in a file of marks: one for each of the three stages, and the block that took too long
SLOT = struct.Struct("<q")


@dataclass(frozen=True)
class SentTask:
    """Everything that a worker needs to run the blocks of a task.

    Attributes:
        payload: The pickled ``WorkTask``.
        main: Name or path of the main module, where the payload refers to it; see ``multiprocessing.spawn``.
        sys_path: The caller's module search path.
        folder: Folder for the files of marks.
        time_limit: Seconds that a block may take before the process ends itself.
        owned: Whether the process was started for this job, so that it may end when it cannot set up the task.
    """

    payload: bytes
    main: tuple[str, str] | None
    sys_path: tuple[str, ...]
    folder: str
    time_limit: float
    owned: bool


class TaskPlugin(WorkerPlugin):  # type: ignore[misc]
    """Sends a task to each worker of a cluster, including those that join later.

    Args:
        sent: The task.
        topic: Topic of its events; also the plugin's name.
    """

    def __init__(self, sent: SentTask, topic: str) -> None:
        self.sent, self.name = sent, topic

    def setup(self, worker: DaskWorker) -> None:
        """Prepare the task, which its first batch then sets up; see ``WorkerPlugin``."""
        self.task = _TaskHere(self.sent, self.name, worker)

    def teardown(self, worker: DaskWorker) -> None:
        """Release the task, see ``WorkerPlugin``; in another thread, since a block may be running."""
        self.task.ended = True
        threading.Thread(target=self.task.end, name="end", daemon=True).start()


def run_batch(topic: str, numbers: list[int], alone: bool) -> None:
    """Run blocks in this worker; blocks that are neither done nor failed at the end are left to other workers.

    Args:
        topic: Name of the plugin that brought the task.
        numbers: Numbers of the blocks.
        alone: Run no other block at the same time.
    """
    plugin = get_worker().plugins[topic]
    assert isinstance(plugin, TaskPlugin)
    plugin.task.run(numbers, alone)


class _TaskHere:
    """One task in one worker process."""

    def __init__(self, sent: SentTask, topic: str, worker: DaskWorker) -> None:
        self._sent, self._topic, self._dask = sent, topic, worker
        self.ended = False
        self._gate = threading.Lock()  # held while blocks are added to the running ones, or run alone
        self._changed = threading.Condition()
        self._under_way: set[int] = set()
        self._marks = _Marks(marks_file(Path(sent.folder), worker.address), SECONDS_TO_SET_UP, sent.time_limit)
        self._events = _Events(worker, topic)
        self._worker: Worker | None = None
        self._stages: Stages | None = None
        self._read: SimpleQueue[Read | None] = SimpleQueue()
        threading.Thread(target=self._watch, name="blocks", daemon=True).start()

    def run(self, numbers: list[int], alone: bool) -> None:
        """Run a batch; see ``run_batch``."""
        with self._gate:
            if self.ended:
                return
            if self._worker is None:
                self._set_up()
            if self._stages is None or alone:
                with self._changed:
                    self._changed.wait_for(lambda: not self._under_way)
                self._run_in_turn(numbers)
            else:
                with self._changed:
                    self._under_way.update(numbers)
                self._stages.add(numbers)
        if self._stages is not None and not alone:
            self._wait_for(set(numbers))
        self._events.send()

    def end(self) -> None:
        """End the threads and free the result of the set-up."""
        with self._gate:
            if self._stages is not None:
                self._wait_for(set(self._under_way))
                self._read.put(None)
                self._stages.close()
            self._worker = self._stages = None

    def _set_up(self) -> None:
        """Unpickle and set up the task; on failure end the process, or the whole call if every worker would fail."""
        self._marks.set_up_began = time.monotonic()
        try:
            task = _unpickled(self._sent)
            worker = Worker(task, str(self._dask.name), advance=self._events.advance)
        except Exception as error:
            known = describe_error(error, str(self._dask.name))
            if self._sent.owned and not isinstance(known.error, InputError | DiskFullError):
                print(known.trace, file=sys.stderr, flush=True)
                os._exit(BROKEN)  # it may work on another machine
            self._events.broken(known)
            raise
        finally:
            self._marks.set_up_began = None
        if task.staged:
            self._stages = Stages(worker, self._read.put, self._report, self._marks.begin)
            threading.Thread(target=self._compute, name="compute", daemon=True).start()
        self._worker = worker
        self._events.ready()

    def _run_in_turn(self, numbers: Sequence[int]) -> None:
        assert self._worker is not None
        for number in numbers:
            if LEAVING.is_set() or self.ended:
                return
            began = time.monotonic()
            self._marks.begin(COMPUTING, number)
            error = self._worker.run(number)
            self._marks.begin(COMPUTING, NOTHING)
            self._events.result(number, time.monotonic() - began, error)

    def _compute(self) -> None:
        """Compute the blocks that have been read until the process ends: in one thread, as devices require."""
        assert self._stages is not None
        while (read := self._read.get()) is not None:
            self._stages.compute(read)

    def _report(self, number: int, seconds: float, error: BlockError | None) -> None:
        self._events.result(number, seconds, error)
        self._no_longer([number])

    def _no_longer(self, numbers: Sequence[int]) -> None:
        with self._changed:
            self._under_way.difference_update(numbers)
            self._changed.notify_all()

    def _wait_for(self, numbers: set[int]) -> None:
        """Wait until blocks are written or have failed; if this process should end, only for those begun."""
        assert self._stages is not None
        while True:
            if LEAVING.is_set() or self.ended:
                self._no_longer(self._stages.take_back())
            with self._changed:
                if self._changed.wait_for(lambda: not numbers & self._under_way, SECONDS_BETWEEN_LOOKS):
                    return

    def _watch(self) -> None:
        """End the process when a block, or the set-up, takes too long; send what waits to be sent."""
        while not self.ended:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if self._marks.overdue():
                os._exit(TIMED_OUT)
            self._events.send()


def _unpickled(sent: SentTask) -> WorkTask:
    """Unpickle a task, with the caller's module search path."""
    sys.path += [path for path in sent.sys_path if path not in sys.path]
    if sent.main is not None:
        from multiprocessing import spawn

        spawn.prepare(dict([sent.main]))
    task = pickle.loads(sent.payload)
    assert isinstance(task, WorkTask)
    return task


class _Marks:
    """The blocks that this process is working on: in memory, and in a file that survives any end of the process."""

    def __init__(self, path: Path, set_up_limit: float, limit: float) -> None:
        self._set_up_limit, self._limit = set_up_limit, limit
        self._began: list[tuple[int, float]] = [(NOTHING, 0.0)] * SLOTS
        self.set_up_began: float | None = None
        self._file: int | None = None
        try:
            path.parent.mkdir(exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.write(self._file, SLOT.pack(NOTHING) * SLOTS)
        except OSError as error:  # an existing cluster that does not share the folder of jobs
            logging.debug("no marks of blocks: %s", error)

    def begin(self, stage: int, number: int) -> None:
        """Note that a stage begins a block, or ended (``NOTHING``)."""
        self._began[stage] = number, time.monotonic()
        if self._file is not None:
            os.pwrite(self._file, SLOT.pack(number), stage * SLOT.size)

    def overdue(self) -> bool:
        """Return whether the set-up, or a block at any stage, takes too long; the block is noted."""
        now = time.monotonic()
        for number, began in self._began:
            if number != NOTHING and now - began > self._limit:
                self.begin(SLOTS - 1, number)
                return True
        return self.set_up_began is not None and now - self.set_up_began > max(self._set_up_limit, self._limit)


@dataclass(frozen=True)
class Marks:
    """The blocks that a process is working on, or was when it ended.

    Attributes:
        numbers: Numbers of the blocks being read, computed or written.
        overdue: The block that took longer than its time limit, if that ended the process.
    """

    numbers: frozenset[int]
    overdue: int | None


def marks_file(folder: Path, address: str) -> Path:
    """Return the path of the marks of a worker."""
    return folder / "at" / re.sub(r"\W+", "_", address)


def read_marks(folder: Path, address: str) -> Marks | None:
    """Read which blocks a worker is working on; None where it cannot write its marks."""
    try:
        slots = [number for (number,) in SLOT.iter_unpack(marks_file(folder, address).read_bytes())]
    except (OSError, struct.error):
        return None
    if len(slots) != SLOTS:
        return None
    overdue = None if slots[-1] == NOTHING else slots[-1]
    return Marks(frozenset(slots[:-1]) - {NOTHING}, overdue)


class _Events:
    """Events that a worker sends to the caller: ready, broken, results, and progress within blocks."""

    def __init__(self, worker: DaskWorker, topic: str) -> None:
        self._worker, self._topic = worker, topic
        self._lock = threading.Lock()
        self._results: list[list[Any]] = []
        self._progress: dict[int, int] = {}
        self._sent = 0.0

    def ready(self) -> None:
        self._send({"ready": True})

    def broken(self, error: BlockError) -> None:
        self._send({"broken": error.as_message()})

    def advance(self, number: int, voxels: int) -> None:
        with self._lock:
            self._progress[number] = self._progress.get(number, 0) + int(voxels)

    def result(self, number: int, seconds: float, error: BlockError | None) -> None:
        with self._lock:
            self._results.append([number, seconds, None if error is None else error.as_message()])
            self._progress.pop(number, None)
        if time.monotonic() - self._sent > SECONDS_TOGETHER:
            self.send()

    def send(self) -> None:
        """Send the collected events."""
        with self._lock:
            if self._results or self._progress:
                self._send({"results": self._results, "progress": list(self._progress.items())})
                self._results, self._progress = [], {}

    def _send(self, event: dict[str, Any]) -> None:
        self._sent = time.monotonic()
        try:
            self._worker.log_event(self._topic, {"worker": str(self._worker.name), **event})
        except Exception:  # the worker is closing; its blocks are done again
            logging.debug("not sent: %s", traceback.format_exc())
