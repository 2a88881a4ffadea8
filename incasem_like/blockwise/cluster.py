"""Dask clusters: a scheduler in this process with a fleet of workers, or a cluster that already exists."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dask.config
from distributed import Client, Future, Scheduler, Security, SpecCluster
from distributed.metrics import time as dask_time

import incasem_like
from incasem_like.blockwise.fleet import Fleet, end_workers
from incasem_like.blockwise.worker_process import QUIET, silence_dask
from incasem_like.blockwise.workers_file import LOOPBACK, SECONDS_TO_CONNECT, Workers
from incasem_like.errors import IncasemError, InputError

CLUSTER_LOST = "The Dask cluster was lost: once it is there again, the same command continues."
EVERYWHERE = ("0.0.0.0", "::")
SECONDS_BETWEEN_QUESTIONS = 2.0
SECONDS_TO_CLOSE = 5.0
SECONDS_FOR_A_WORKER = 60.0  # of an existing cluster
LEAST_SILENCE = 10.0  # one or two heartbeats a second are sent, but a busy machine delays them
SETTINGS = {
    **QUIET,
    "distributed.scheduler.allowed-failures": 0,  # the queue of blocks counts
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": None,  # the fleet's workers are watched here
    "distributed.scheduler.idle-timeout": None,
    "distributed.scheduler.no-workers-timeout": None,
}
BARE: dict[str, Any] = {"distributed.scheduler.http.routes": []}


class Cluster:
    """A Dask cluster, whose ``scheduler`` and ``fleet`` this call starts or, if it existed before, somebody else.

    ``silences`` are seconds without a heartbeat after which a started worker is replaced: of this machine, of others.
    ``dashboard`` is the address of Dask's pages, or nothing.
    """

    def __init__(
        self,
        client: Client,
        dashboard: str,
        fleet: Fleet,
        scheduler: Scheduler | None = None,
        silences: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.client, self.dashboard, self.fleet = client, dashboard, fleet
        self._scheduler, self._silences = scheduler, silences
        # Workers that are started may wait in a queue for as long as they have to.
        self.patience = SECONDS_FOR_A_WORKER if scheduler is None else None
        self._reasons: dict[str, str] = {}  # why workers were ended
        self._asked = 0.0
        self._found: list[dict[str, Any]] = []

    def workers(self) -> Sequence[dict[str, Any]]:
        """Describe the workers: ``address``, ``name``, ``host``, ``pid``, ``threads``."""
        if self._scheduler is not None:
            return [
                {"address": one.address, "name": self.name_of(one.name), "host": one.host, "pid": one.pid,
                 "threads": one.nthreads}
                for one in list(self._scheduler.workers.values())
            ]  # fmt: skip
        if time.monotonic() - self._asked > SECONDS_BETWEEN_QUESTIONS:
            try:
                known = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
            except (OSError, AttributeError, RuntimeError) as error:
                raise IncasemError(CLUSTER_LOST) from error
            self._asked = time.monotonic()
            self._found = [
                {"address": address, "name": str(one["name"]), "host": one["host"], "pid": 0,
                 "threads": one["nthreads"]}
                for address, one in known.items()
            ]  # fmt: skip
        return self._found

    def name_of(self, dask_name: object) -> str:
        """Return a worker's name; in Dask that of a started one has a suffix that distinguishes its connections."""
        return str(dask_name) if self._scheduler is None else str(dask_name).rpartition(".")[0]

    def tend(self, left: int, waiting: int) -> None:
        """Start missing workers, replace silent ones, and end idle ones; arguments as for ``Fleet.tend``."""
        known = [] if self._scheduler is None else list(self._scheduler.workers.values())
        latest = {self.name_of(one.name): one for one in known}
        for one in known:
            name = self.name_of(one.name)
            slot, silence = self.fleet.slots[name], dask_time() - one.last_seen
            replaced, silent = latest[name] is not one, silence > self._silences[0 if slot.local else 1]
            if replaced or silent:  # the end of a replaced one's connection was not seen
                if not replaced:
                    self._reasons[name] = f"The worker {name} on {one.host} has been silent for {silence:.0f} s"
                    end_workers([slot])
                removed = {"address": one.address, "expected": replaced, "stimulus_id": f"incasem-{time.time()}"}
                self.client.sync(self._scheduler.remove_worker, **removed)  # type: ignore[union-attr]
            elif not waiting and not one.processing and not slot.always:
                end_workers([slot])
        self.fleet.tend(left, waiting)

    def describe_death(self, name: str, pid: int) -> str:
        """Return how a worker ended, in a sentence without its full stop."""
        slot = self.fleet.slots.get(name)
        status = None if slot is None else slot.exit_status(pid)
        died = f"The worker {name} died"
        if status == -9:
            died += " by signal 9, perhaps because memory ran out: fewer workers need less"
        elif status is not None:
            died += f" by signal {-status}" if status < 0 else f" with status {status}"
        return self._reasons.pop(name, died)

    def release(self, topic: str, futures: Sequence[Future]) -> None:
        """Cancel batches, and remove the plugin of that name, unless the workers end anyway."""
        if self._scheduler is None:
            with contextlib.suppress(OSError, ValueError):  # if the cluster no longer exists
                self.client.cancel(futures)
                self.client.unregister_worker_plugin(topic)


@contextlib.contextmanager
def own_cluster(workers: Workers, fleet: Fleet, threads: int, block_limit: float) -> Iterator[Cluster]:
    """Run a scheduler for a fleet of workers for the duration of a ``with`` block, which ends the workers.

    A worker runs ``threads`` Dask tasks at a time; a block may take ``block_limit`` seconds.
    """
    settings = workers.scheduler
    listen, port = settings.listen or LOOPBACK, settings.port
    silences = max(block_limit, LEAST_SILENCE), max(min(settings.silence, block_limit), LEAST_SILENCE)
    security = Security.temporary()
    options = {
        "host": f"[{listen}]" if ":" in listen else listen, "port": port, "protocol": "tls://",
        "security": security, "dashboard": workers.dashboard, "dashboard_address": "127.0.0.1:0",
    }  # fmt: skip
    gently = False
    silence_dask()
    with dask.config.set(SETTINGS if workers.dashboard else {**SETTINGS, **BARE}), contextlib.ExitStack() as stack:
        cluster = SpecCluster(scheduler={"cls": Scheduler, "options": options}, workers={}, security=security)
        stack.callback(cluster.close, timeout=SECONDS_TO_CLOSE)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        port = int(cluster.scheduler.address.rpartition(":")[2])
        host = settings.advertise or (socket.gethostname() if listen in EVERYWHERE else listen)
        fleet.announce({
            "address": f"tls://{f'[{host}]' if ':' in host else host}:{port}", "host": host, "port": port,
            "key": security.tls_worker_key, "certificate": security.tls_worker_cert, "threads": threads,
        })  # fmt: skip
        page = f"http://127.0.0.1:{cluster.scheduler.http_server.port}/status" if workers.dashboard else ""
        try:
            yield Cluster(client, page, fleet, cluster.scheduler, silences)
            gently = True
        finally:
            fleet.end(gently=gently)  # before the scheduler, which would wait for long blocks


@contextlib.contextmanager
def existing_cluster(address: str, dashboard: bool, fleet: Fleet) -> Iterator[Cluster]:
    """Connect to a cluster for the duration of a ``with`` block; other clients may use it too. The fleet is empty.

    Certificates for ``tls://`` come from the user's Dask configuration.

    Raises:
        InputError: It cannot be reached, or its workers cannot run this package's blocks.
    """
    silence_dask()
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The Dask cluster {address} cannot be reached ({' '.join(str(error).split()) or type(error).__name__}): "
            "correct the address, or for tls:// the certificates in Dask's configuration."
        ) from error
    with client:
        _check_versions(client, address)
        yield Cluster(client, str(client.dashboard_link or "") if dashboard else "", fleet)


def _check_versions(client: Client, address: str) -> None:
    """Compare the workers' versions of Python, distributed and this package with those here, or raise InputError."""

    def versions() -> list[str]:  # sent by value, since the package there may lack it
        import sys

        import distributed

        python = f"python {sys.version_info[0]}.{sys.version_info[1]}"
        return [python, f"distributed {distributed.__version__}", f"incasem-like {incasem_like.__version__}"]

    here = versions()
    for worker, there in client.run(versions, on_error="return").items():
        whose = f"The worker {worker} of the Dask cluster {address}"
        if isinstance(there, Exception):
            raise InputError(f"{whose} cannot import incasem_like ({there}): install {here[-1]} there.")
        for ours, theirs in zip(here, there, strict=True):
            if ours != theirs:
                raise InputError(
                    f"{whose} has {theirs}, but here is {ours.split()[1]}: install the same version on both sides."
                )
