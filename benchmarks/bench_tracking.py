"""What logging a value in every iteration costs, on files and in MongoDB, against stock Sacred's observers."""

from __future__ import annotations

import json
import platform
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from mongo import mongo_url, run_stock, stock_mongo_observer

from incasem_like.tracking import Run, RunStore, open_store, run_experiment
from incasem_like.tracking.sacred_parts import FileStorageObserver

RESULTS = Path(__file__).parent / "results" / "tracking.json"
ITERATIONS = 100_000
MANY_ITERATIONS = 1_000_000
ITERATIONS_PER_HEARTBEAT = 1000  # ten seconds of a training with 100 iterations a second
Log = Callable[[str, float, int], object]


@dataclass(frozen=True)
class LoggingCost:
    """What logging one value costs.

    Attributes:
        case: Who logs where.
        iterations: Values logged, with a heartbeat after every 1000.
        cpu_us: Microseconds of CPU of all threads, for each value.
        wall_us: Microseconds that pass.
        last_tenth_cpu_us: The same over the last tenth: does it grow with the run?
        memory_mib: What the process grew by.
    """

    case: str
    iterations: int
    cpu_us: float
    wall_us: float
    last_tenth_cpu_us: float
    memory_mib: float


def log_values(case: str, iterations: int, log: Log, heartbeat: Callable[[], object]) -> LoggingCost:
    """Log a value in every iteration, with heartbeats between."""
    process = psutil.Process()
    memory = process.memory_info().rss
    wall, cpu, late = time.perf_counter(), time.process_time(), 0.0
    for iteration in range(iterations):
        if iteration == iterations - iterations // 10:
            late = time.process_time()
        log("loss_train_0", 1.0 / (iteration + 1), iteration)
        if iteration % ITERATIONS_PER_HEARTBEAT == ITERATIONS_PER_HEARTBEAT - 1:
            heartbeat()
    now = time.process_time()
    return LoggingCost(
        case,
        iterations,
        1e6 * (now - cpu) / iterations,
        1e6 * (time.perf_counter() - wall) / iterations,
        1e6 * (now - late) / (iterations // 10),
        (process.memory_info().rss - memory) / 2**20,
    )


def run_ours(store: RunStore, main: Callable[[Run], Any]) -> Any:
    """Run something as one of our experiments."""
    found: list[Any] = []
    run_experiment(name="bench", config={}, main=lambda run: found.append(main(run)), store=store)
    return found[0]


def measure_logging(case: str, observer: Any, store: RunStore) -> Iterator[LoggingCost]:
    """Measure stock Sacred, and ours with as many values and with many more."""
    yield run_stock(
        observer,
        lambda run: log_values(f"{case}, stock Sacred", ITERATIONS, run.log_scalar, run._emit_heartbeat),
    )
    for iterations in (ITERATIONS, MANY_ITERATIONS):
        name = f"{case}, ours"
        yield run_ours(store, lambda run, n=iterations, name=name: log_values(name, n, run.log_scalar, run.flush))


def show(costs: list[LoggingCost]) -> None:
    for cost in costs:
        place = cost.case.split(",")[0]
        peer = next(other for other in costs if other.case == f"{place}, stock Sacred")
        ratios = f": 1/{peer.cpu_us / cost.cpu_us:.1f} of its CPU, 1/{peer.wall_us / cost.wall_us:.1f} of its time"
        print(
            f"{cost.case}, {cost.iterations} values: {cost.cpu_us:.1f} us CPU each ({cost.last_tenth_cpu_us:.1f} in "
            f"the last tenth), {cost.wall_us:.1f} us pass, {cost.memory_mib:+.0f} MiB"
            + (ratios if cost != peer else "")
        )


def main() -> None:
    costs: list[LoggingCost] = []
    with tempfile.TemporaryDirectory() as name, mongo_url(Path(name)) as url:
        folder = Path(name)
        files = open_store(folder / "store", "trainings", folder / "runs")
        costs += measure_logging("files", FileStorageObserver(str(folder / "stock")), files)
        if url is not None:
            database = f"bench_{uuid.uuid4().hex[:8]}"
            store = open_store(f"{url.rstrip('/')}/{database}_trainings", "trainings", folder / "runs")
            costs += measure_logging("MongoDB", stock_mongo_observer(url, f"{database}_stock"), store)
            for used in (f"{database}_trainings", f"{database}_stock"):
                store.database.client.drop_database(used)
    show(costs)
    RESULTS.parent.mkdir(exist_ok=True)
    rows = [asdict(cost) for cost in costs]
    RESULTS.write_text(json.dumps({"machine": platform.machine(), "logging": rows}, indent=2))


if __name__ == "__main__":
    main()
