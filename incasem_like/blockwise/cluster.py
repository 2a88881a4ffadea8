"""Dask clusters: a scheduler in this process with a fleet of workers, or a cluster that already exists."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.config

from incasem_like.blockwise.check_workers import cannot_listen
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.launchers import Place
from incasem_like.blockwise.worker_process import QUIET
from incasem_like.blockwise.workers_file import LOOPBACK, SchedulerSection, Workers
from incasem_like.errors import IncasemError, InputError

dask.config.set({"logging.distributed": "critical"})  # users read our own messages instead
from distributed import Client, Scheduler, Security, SpecCluster  # noqa: E402
from distributed.metrics import time as dask_time  # noqa: E402

CLUSTER_LOST = "The Dask cluster was lost: once it is there again, the same command continues."
EVERYWHERE = ("0.0.0.0", "::")
SECONDS_TO_COME_BACK = 3.0
SECONDS_BETWEEN_QUESTIONS = 2.0
SECONDS_TO_CLOSE = 5.0
LEAST_SILENCE = 10.0  # one or two heartbeats a second are sent, but a busy machine delays them
SETTINGS = {
    **QUIET,
    "distributed.scheduler.allowed-failures": 0,  # the queue of blocks counts
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": None,  # the fleet's workers are watched here
    "distributed.scheduler.idle-timeout": None,
    "distributed.scheduler.no-workers-timeout": None,
    "distributed.scheduler.validate": False,
    "distributed.worker.memory.terminate": False,
}
BARE: dict[str, Any] = {"distributed.scheduler.http.routes": []}


class Cluster:
    """A cluster that already exists: its owner starts and stops the workers.

    Args:
        client: A Dask client connected to the cluster.

    Attributes:
        client: The Dask client.
        owned: Whether its workers were started for this call.
        dashboard: Address of Dask's pages, or nothing.
    """

    owned = False

    def __init__(self, client: Client) -> None:
        self.client = client
        self.dashboard = ""
        self._asked = 0.0
        self._found: Mapping[str, Mapping[str, Any]] = {}

    def workers(self) -> Sequence[dict[str, Any]]:
        """Describe the workers: ``address``, ``name``, ``host``, ``pid``, ``threads``."""
        if time.monotonic() - self._asked > SECONDS_BETWEEN_QUESTIONS:
            try:
                self._found = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
            except (OSError, AttributeError, RuntimeError) as error:
                raise IncasemError(CLUSTER_LOST) from error
            self._asked = time.monotonic()
        return [
            {"address": address, "name": str(one["name"]), "host": one["host"], "pid": 0, "threads": one["nthreads"]}
            for address, one in self._found.items()
        ]

    def tend(self, left: int, waiting: int) -> None:
        """Replace workers that ended or are silent."""

    def worked(self, name: str) -> None:
        """Note that a worker did something."""

    def describe_death(self, name: str, pid: int) -> str:
        """Return how a worker ended, in a sentence without its full stop."""
        return f"The worker {name} died"

    def last_words(self) -> str:
        """Return the last message about workers that have not connected."""
        return ""


class OwnCluster(Cluster):
    """A scheduler in this process, with workers that this call starts.

    Args:
        client: A Dask client connected to the cluster.
        scheduler: The scheduler in this process.
        fleet: Starts the workers.
        silences: Seconds without a heartbeat after which a worker is replaced: of this machine, of others.
    """

    owned = True

    def __init__(self, client: Client, scheduler: Scheduler, fleet: Fleet, silences: tuple[float, float]) -> None:
        super().__init__(client)
        self._scheduler, self._fleet, self._silences = scheduler, fleet, silences
        self._reasons: dict[str, str] = {}

    def workers(self) -> Sequence[dict[str, Any]]:
        """Describe the workers, see ``Cluster.workers``."""
        return [
            {"address": one.address, "name": name_of(one.name), "host": one.host, "pid": one.pid,
             "threads": one.nthreads}
            for one in list(self._scheduler.workers.values())
        ]  # fmt: skip

    def tend(self, left: int, waiting: int) -> None:
        """Start missing workers, replace silent ones, and end idle ones."""
        known = list(self._scheduler.workers.values())
        latest = {name_of(one.name): one for one in known}
        for one in known:
            name = name_of(one.name)
            if latest[name] is not one:  # its connection was lost and it has opened a new one
                self._remove(one.address, expected=True)
                continue
            silence = dask_time() - one.last_seen
            if silence > self._silences[0 if self._fleet.is_local(name) else 1]:
                self._reasons[name] = f"The worker {name} on {one.host} has been silent for {silence:.0f} s"
                self._fleet.stop(name)
                self._remove(one.address, expected=False)
            elif not waiting and not one.processing and self._fleet.may_leave(name):
                self._fleet.stop(name)
        self._fleet.tend(left, waiting, latest)

    def _remove(self, address: str, *, expected: bool) -> None:
        self.client.sync(
            self._scheduler.remove_worker, address=address, expected=expected, stimulus_id=f"incasem-{time.time()}"
        )

    def worked(self, name: str) -> None:
        """Note that a worker did something."""
        self._fleet.worked(name)

    def describe_death(self, name: str, pid: int) -> str:
        """Return how a worker ended, see ``Cluster.describe_death``."""
        status = self._fleet.exit_status(name, pid)
        died = f"The worker {name} died"
        if status == -9:
            died += " by signal 9, perhaps because memory ran out: fewer workers need less"
        elif status is not None:
            died += f" by signal {-status}" if status < 0 else f" with status {status}"
        return self._reasons.pop(name, died)

    def last_words(self) -> str:
        """Return the last message about workers that have not connected."""
        return self._fleet.last_words()


def name_of(dask_name: object) -> str:
    """Return a worker's name in the fleet: its name in Dask without the suffix that distinguishes its connections."""
    return str(dask_name).rpartition(".")[0] or str(dask_name)


@contextlib.contextmanager
def own_cluster(workers: Workers, folder: Path, threads: int, block_limit: float) -> Iterator[OwnCluster]:
    """Run a scheduler and workers for the duration of a ``with`` block.

    Args:
        workers: The workers to start, and where the scheduler listens.
        folder: Folder of the job, accessible to its owner only.
        threads: Dask tasks that a worker runs at a time.
        block_limit: Seconds that a block may take.

    Raises:
        InputError: The address cannot be listened on, or the dashboard's pages are not installed.
    """
    settings = workers.scheduler
    place = Place(folder, settings.reconnect)
    # Left by a scheduler that was killed; its workers may still be looking for the next one.
    left = place.connection.exists()
    fleet = Fleet(workers.groups, place, SECONDS_TO_COME_BACK if left else 0.0)
    silences = max(block_limit, LEAST_SILENCE), max(min(settings.silence, block_limit), LEAST_SILENCE)
    security = Security.temporary()
    gently = False
    with dask.config.set(SETTINGS if workers.dashboard else {**SETTINGS, **BARE}), contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_scheduler(settings, security, workers.dashboard))
        # Errors during start-up are reported by their effect on blocks.
        for name in ("distributed", "distributed.client", "bokeh", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        _write_connection(place, settings, cluster.scheduler.address, security, threads)
        made = OwnCluster(client, cluster.scheduler, fleet, silences)
        port = cluster.scheduler.http_server.port
        made.dashboard = f"http://127.0.0.1:{port}/status" if workers.dashboard else ""
        try:
            yield made
            gently = True
        finally:
            place.connection.unlink(missing_ok=True)
            fleet.end(gently=gently)
            for rest in ("at", "scratch"):
                shutil.rmtree(folder / rest, ignore_errors=True)


@contextlib.contextmanager
def _scheduler(settings: SchedulerSection, security: Security, dashboard: bool) -> Iterator[SpecCluster]:
    address = settings.listen or LOOPBACK
    options = {
        "host": f"[{address}]" if ":" in address else address, "port": settings.port, "protocol": "tls://",
        "security": security, "dashboard": dashboard, "dashboard_address": "127.0.0.1:0",
    }  # fmt: skip
    try:
        cluster = SpecCluster(scheduler={"cls": Scheduler, "options": options}, workers={}, security=security)
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cannot_listen(address, settings.port, cause) from error
    try:
        yield cluster
    finally:
        cluster.close(timeout=SECONDS_TO_CLOSE)


def _write_connection(place: Place, settings: SchedulerSection, address: str, security: Security, threads: int) -> None:
    """Write the scheduler's address atomically, to a file that only its owner's workers can read.

    Raises:
        InputError: The file system does not keep permissions, so that others could read it.
    """
    listen, port = settings.listen or LOOPBACK, int(address.rpartition(":")[2])
    host = settings.advertise or (socket.gethostname() if listen in EVERYWHERE else listen)
    known = {
        "address": f"tls://{f'[{host}]' if ':' in host else host}:{port}", "host": host, "port": port,
        "key": security.tls_worker_key, "certificate": security.tls_worker_cert, "threads": threads,
    }  # fmt: skip
    partial = place.connection.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if os.fstat(descriptor).st_mode & 0o077:
            partial.unlink()
            raise InputError(
                f"{place.folder} is on a file system where others can read the workers' key: "
                "set INCASEM_JOBS to a folder on one that keeps permissions."
            )
        file.write(json.dumps(known))
    partial.replace(place.connection)
