"""A blockwise task inside a Dask worker: unpickled and set up once, then run batch by batch.

What comes of each block is sent as an event, not as the result of a Dask task: a result lies on the worker until it is
fetched and would be lost with it. At which block the process is, is written to a file of the job beforehand, so that
the block that kills its process is known, and none beside it is blamed.
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

LEAVING = threading.Event()  # set when this process is to end after the present block
SECONDS_TOGETHER = 0.05  # results that come within so short a time go in one event
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_TO_SET_UP = 600.0
SLOTS = 4  # numbers in a file of marks: of the three stages, and the block that took too long
SLOT = struct.Struct("<q")


@dataclass(frozen=True)
class SentTask:
    """What a worker needs to run the blocks of a task.

    Attributes:
        payload: The pickled ``WorkTask``.
        main: Name or path of the main module, where the payload refers to it; see ``multiprocessing.spawn``.
        sys_path: Where the caller finds its modules.
        folder: For the marks.
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
    """Brings a task to each worker of a cluster, also to those that come later.

    Args:
        sent: The task.
        topic: Of its events; also the plugin's name.
    """

    def __init__(self, sent: SentTask, topic: str) -> None:
        self.sent, self.name = sent, topic

    def setup(self, worker: DaskWorker) -> None:
        """Make the task ready to be set up by its first batch, see ``WorkerPlugin``."""
        self.task = _TaskHere(self.sent, self.name, worker)

    def teardown(self, worker: DaskWorker) -> None:
        """Let go of the task, see ``WorkerPlugin``; not in this thread, since a block may be under way."""
        self.task.ended = True
        threading.Thread(target=self.task.end, name="end", daemon=True).start()


def run_batch(topic: str, numbers: list[int], alone: bool) -> None:
    """Run blocks in this worker; a block that is neither done nor failed by the end is left to others.

    Args:
        topic: Name of the plugin that brought the task.
        numbers: Of the blocks.
        alone: Let no other block run beside them.
    """
    plugin = get_worker().plugins[topic]
    assert isinstance(plugin, TaskPlugin)
    plugin.task.run(numbers, alone)


class _TaskHere:
    """One task in one worker process."""

    def __init__(self, sent: SentTask, topic: str, worker: DaskWorker) -> None:
        self._sent, self._topic, self._dask = sent, topic, worker
        self.ended = False
        self._gate = threading.Lock()  # held while blocks are added to those under way, or run with none beside them
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
        """End the threads, and free what the set-up has made."""
        with self._gate:
            if self._stages is not None:
                self._wait_for(set(self._under_way))
                self._read.put(None)
                self._stages.close()
            self._worker = self._stages = None

    def _set_up(self) -> None:
        """Unpickle and set up the task, or end the process, or the call where every other worker would fail too."""
        self._marks.set_up_began = time.monotonic()
        try:
            task = _unpickled(self._sent)
            worker = Worker(task, str(self._dask.name), advance=self._events.advance)
        except Exception as error:
            known = describe_error(error, str(self._dask.name))
            if self._sent.owned and not isinstance(known.error, InputError | DiskFullError):
                print(known.trace, file=sys.stderr, flush=True)
                os._exit(BROKEN)  # another machine may be in order
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
        """Compute what is read, for as long as the process lives: one thread, as a device wants it."""
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
        """Wait until blocks are written or have failed; when this process is to end, for those begun."""
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
    """Unpickle a task, where its functions are found as the caller finds them."""
    sys.path += [path for path in sent.sys_path if path not in sys.path]
    if sent.main is not None:
        from multiprocessing import spawn

        spawn.prepare(dict([sent.main]))
    task = pickle.loads(sent.payload)
    assert isinstance(task, WorkTask)
    return task


class _Marks:
    """At which blocks this process is: in memory, and in a file that outlives it however it ends."""

    def __init__(self, path: Path, set_up_limit: float, limit: float) -> None:
        self._set_up_limit, self._limit = set_up_limit, limit
        self._began: list[tuple[int, float]] = [(NOTHING, 0.0)] * SLOTS
        self.set_up_began: float | None = None
        self._file: int | None = None
        try:
            path.parent.mkdir(exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.write(self._file, SLOT.pack(NOTHING) * SLOTS)
        except OSError as error:  # a standing cluster that does not share the folder of jobs
            logging.debug("no marks of blocks: %s", error)

    def begin(self, stage: int, number: int) -> None:
        """Note that a stage begins with a block, or ended (``NOTHING``)."""
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
    """At which blocks a process is, or was when it ended.

    Attributes:
        numbers: Of the blocks being read, computed or written.
        overdue: The block that took longer than its time limit, if the process ended for that.
    """

    numbers: frozenset[int]
    overdue: int | None


def marks_file(folder: Path, address: str) -> Path:
    """Return the path of the marks of a worker."""
    return folder / "at" / re.sub(r"\W+", "_", address)


def read_marks(folder: Path, address: str) -> Marks | None:
    """Read at which blocks a worker is; None where it cannot write that."""
    try:
        slots = [number for (number,) in SLOT.iter_unpack(marks_file(folder, address).read_bytes())]
    except (OSError, struct.error):
        return None
    if len(slots) != SLOTS:
        return None
    overdue = None if slots[-1] == NOTHING else slots[-1]
    return Marks(frozenset(slots[:-1]) - {NOTHING}, overdue)


class _Events:
    """What a worker sends to the caller: that it is ready or broken, results, and progress within blocks."""

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
        """Send what has gathered."""
        with self._lock:
            if self._results or self._progress:
                self._send({"results": self._results, "progress": list(self._progress.items())})
                self._results, self._progress = [], {}

    def _send(self, event: dict[str, Any]) -> None:
        self._sent = time.monotonic()
        try:
            self._worker.log_event(self._topic, {"worker": str(self._worker.name), **event})
        except Exception:  # of a worker that closes; the blocks are done again
            logging.debug("not sent: %s", traceback.format_exc())
