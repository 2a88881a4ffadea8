"""Blocks on Dask: sends batches of them to a cluster and records the outcome of each block."""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Future, KilledWorker

from incasem_like.blockwise.call import BlockError, Call
from incasem_like.blockwise.cluster import CLUSTER_LOST, Cluster, existing_cluster, own_cluster
from incasem_like.blockwise.dask_task import THREADS_OF_A_STAGED_TASK, TaskPlugin, read_marks, run_batch
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import IncasemError, InputError

SECONDS_BETWEEN_LOOKS = 0.2
AHEAD = 0.25  # seconds of work in a batch, large compared with Dask's overhead
MOST_AHEAD = 256
BATCHES_PER_THREAD = 2  # so that workers do not wait for this process
VAIN_DEATHS = 20  # workers that may die in a row without a block being done or blamed


def run_on_workers(call: Call, workers: Workers, fleet: Fleet) -> None:
    """Run the blocks of a call on workers until its queue is empty; errors as for ``try_blockwise``.

    The fleet has the workers that were started, none where a cluster exists.
    """
    task = call.task
    limit = workers.scheduler.block_time_limit or task.time_limit
    plugin = TaskPlugin(task, f"incasem-{uuid.uuid4().hex}", call.record.folder, limit, owned=not workers.cluster)
    threads = THREADS_OF_A_STAGED_TASK if task.staged else 1
    with (
        existing_cluster(workers.cluster, workers.dashboard, fleet)
        if workers.cluster
        else own_cluster(workers, fleet, threads, limit)
    ) as cluster:
        _Engine(call, plugin, cluster, workers.scheduler.worker_timeout or cluster.patience).run()


class _Engine:
    """The batches of one call that are sent out, and the events that are received."""

    def __init__(self, call: Call, plugin: TaskPlugin, cluster: Cluster, patience: float | None) -> None:
        self._call, self._plugin, self._cluster, self._patience = call, plugin, cluster, patience
        self._folder, self._topic = call.record.folder, plugin.name
        self._inbox: SimpleQueue[dict[str, Any] | Future] = SimpleQueue()
        self._batches: dict[str, tuple[list[int], Future]] = {}  # blocks that were sent to a worker together
        self._batch_of: dict[int, str] = {}  # blocks sent out whose outcome is still unknown
        self._mean = 0.0  # seconds per block; 0 as long as none is done
        self._began, self._looked, self._pause = time.monotonic(), 0.0, 0.0
        self._threads, self._vain_deaths = 0, 0

    def run(self) -> None:
        """Run until every block is done or has failed; see ``run_on_workers``."""
        self._cluster.client.subscribe_topic(self._topic, lambda event: self._inbox.put(event[1]))
        self._cluster.client.register_plugin(self._plugin)
        try:
            while self._call:
                self._look()
                self._hand_out()
                self._receive()
        finally:
            self._cluster.release(self._topic, [future for _, future in self._batches.values()])

    def _look(self) -> None:
        """Do periodic work: replace workers, show progress."""
        now = time.monotonic()
        # Often at first, so that the first worker is noticed at once.
        self._pause = min(SECONDS_BETWEEN_LOOKS, (now - self._began) / 20)
        if now - self._looked < self._pause:
            return
        self._looked = now
        workers = self._cluster.workers()
        self._threads = sum(worker["threads"] for worker in workers)
        beyond = max(0, len(self._batches) - self._threads)  # batches that wait in Dask
        self._cluster.tend(len(self._call), self._call.waiting + beyond)
        self._patience = None if workers else self._patience
        if self._patience is not None and now - self._began > self._patience:
            words = self._cluster.fleet.last_words()
            raise InputError(
                f'No worker has come within {self._patience:g} s, last said was "{words or "nothing"}": mend that, or '
                "set scheduler.worker_timeout in the workers file to a longer time."
            )
        described = []
        for worker in workers:
            marks, clock = read_marks(self._folder, worker["address"]), time.time()
            block, began = min(marks.began.items() if marks else (), default=(None, clock))
            about = {key: worker[key] for key in ("name", "host", "pid")}
            described.append({**about, "block": block, "seconds": round(max(0.0, clock - began), 1)})
        self._call.look(described, self._cluster.dashboard)

    def _hand_out(self) -> None:
        """Keep all workers busy, but leave some blocks for others at the end."""
        while len(self._batches) < (most := BATCHES_PER_THREAD * self._threads):
            share = -(-self._call.waiting // most)
            ahead = int(AHEAD / self._mean) if self._mean else 1
            numbers = self._call.take(max(1, min(ahead, MOST_AHEAD, share)))
            if not numbers:
                return
            alone = numbers[0] in self._call.suspects
            key = f"{self._topic}-{uuid.uuid4().hex}"
            future = self._cluster.client.submit(run_batch, self._topic, numbers, alone, key=key, pure=False)
            self._batches[key] = numbers, future
            self._batch_of.update(dict.fromkeys(numbers, key))
            future.add_done_callback(self._inbox.put)

    def _receive(self) -> None:
        """Process the events that have arrived from workers, after a short wait."""
        try:
            message = self._inbox.get(timeout=max(self._pause, 0.001))
            while True:
                if isinstance(message, dict):
                    self._take(message)
                else:
                    self._end_batch(message)
                message = self._inbox.get_nowait()
        except Empty:
            return

    def _take(self, message: dict[str, Any]) -> None:
        """Process an event of a worker.

        Raises:
            IncasemError: The event reports an error that ends the call.
        """
        worker = self._cluster.name_of(message["worker"])
        if "broken" in message:
            raise pickle.loads(message["broken"])
        self._cluster.fleet.worked(worker)
        results = pickle.loads(message["results"]) if "results" in message else ()
        for number, seconds, error in results:
            self._vain_deaths = 0
            self._batch_of.pop(number, None)
            if error is None:
                self._mean += (0.1 if self._mean else 1.0) * (max(seconds, 1e-6) - self._mean)
        if done := [number for number, _, error in results if error is None]:
            self._call.finish(done)
        for number, _, error in results:
            if error is not None:
                self._call.error(number, error)
        for number, voxels in message.get("progress", ()):
            if number in self._batch_of:
                self._call.advance(number, voxels)

    def _end_batch(self, future: Future) -> None:
        """Put back the blocks of a batch whose outcome is unknown: its worker is leaving, or died."""
        numbers, _ = self._batches.pop(future.key, ([], future))
        left = [number for number in numbers if self._batch_of.get(number) == future.key]
        for number in left:
            del self._batch_of[number]
            self._call.retract(number)
        if future.status == "cancelled":
            raise IncasemError(CLUSTER_LOST)
        if future.status == "error":
            error = future.exception()
            if not isinstance(error, KilledWorker):
                raise IncasemError(f"Blocks cannot be run on the cluster ({type(error).__name__}: {error}).") from error
            self._find_killer(left, error)
        else:  # finished, or lost with its worker
            self._call.put_back(left)

    def _find_killer(self, left: Sequence[int], death: KilledWorker) -> None:
        """Blame only the block that was running when a worker died; if several were, run each alone to find out."""
        worker = death.last_worker
        name, deaths = self._cluster.name_of(worker.name), death.allowed_failures + 1
        marks = read_marks(self._folder, worker.address)
        overdue = None if marks is None else marks.overdue
        at = set(left) if marks is None else set(marks.began) if overdue is None else {overdue}
        if marks is not None and marks.began:
            self._cluster.fleet.worked(name)  # the event that reports it may have died with the worker
        possible = [number for number in left if number in at]
        self._call.put_back([number for number in left if number not in at])
        if len(at) > 1:
            self._call.suspects.update(possible)
            self._call.put_back(possible)
        elif possible and overdue is not None:
            limit = f"the time limit of {self._plugin.time_limit:g} s"
            late = BlockError(InputError(f"The block took longer than {limit}."), worker=name, deaths=deaths)
            if self._call.error(overdue, late) is not None and not self._mean:
                raise InputError(
                    f"No block was done within {limit}: set "
                    "scheduler.block_time_limit in the workers file to a longer time, or make the blocks smaller."
                )
        elif possible:
            words = self._cluster.describe_death(name, worker.pid)
            self._call.error(possible[0], BlockError(IncasemError(f"{words}."), worker=name, deaths=deaths))
        self._vain_deaths = 0 if len(at) == 1 and possible else self._vain_deaths + (not possible)
        if self._vain_deaths > VAIN_DEATHS:
            raise IncasemError(
                f"{VAIN_DEATHS} workers died one after the other without a block at fault, the last one {name}: "
                f"look at {self._folder}."
            )
