"""What scheduling costs, against daisy 2: same grid, same number of worker processes, finished blocks kept on disk.

The blocks do nothing, or wait 5 ms, so that all that is measured is what an engine adds: the wall time from the end of
one block to the begin of the next in the same worker, which is what a worker loses; and the processor time of a further
block, scheduler and workers together. The engines take turns. Ours notes every block in its log, checks the output's
fingerprint and proves every message; daisy keeps its tracking group. Takes two to three minutes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import daisy
import daisy.logging
from block_functions import GAPS, WAIT, daisy_nothing, daisy_wait, nothing, wait

from incasem_like.blockwise import Block, BlockTask, run_blockwise
from incasem_like.volumes import create_volume

RESULTS = Path(__file__).parent / "results" / "blockwise.json"
WORKERS = 2
BLOCKS = 100_000
WAITING_BLOCKS = (1_000, 4_000)
ROUNDS = 3


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    assert action()
    return time.perf_counter() - start


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return what the scheduler and its workers use of the processors."""
    before = os.times()
    assert action()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


def marginal(engine: Callable[[int], Callable[[], object]]) -> tuple[float, float]:
    """Return in ms what one more block takes of the processors, and the wall time between two blocks of a worker.

    The start of the workers falls out of both; waiting takes no processor.
    """
    few, many = WAITING_BLOCKS
    first, _ = _cpu_and_gap(engine(few))
    second, gap = _cpu_and_gap(engine(many))
    return (second - first) / (many - few) * 1000, gap * 1000


def _cpu_and_gap(action: Callable[[], object]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ[GAPS] = folder
        used = cpu_seconds(action)
        noted = [gap for path in Path(folder).iterdir() for (gap,) in struct.iter_unpack("d", path.read_bytes())]
    return used, statistics.fmean(noted)


def ours(folder: Path, function: Callable[[Block, Mapping[str, Any]], None], blocks: int) -> Callable[[], object]:
    output = create_volume(
        folder / "ours.zarr/out",
        shape=(blocks // 1000, 100, 10),
        dtype="uint8",
        voxel_size=(1, 1, 1),
        chunk_shape=(1, 1, 1),
        overwrite=True,
    )
    task = BlockTask("empty", output, (), function, {}, (1, 1, 1))
    return lambda: run_blockwise(task, num_workers=WORKERS)


def theirs(folder: Path, function: Callable[[daisy.Block], None], blocks: int) -> Callable[[], object]:
    tracking = folder / "daisy"
    shutil.rmtree(tracking, ignore_errors=True)
    one = daisy.Roi((0, 0, 0), (1, 1, 1))
    task = daisy.Task(
        "empty",
        total_roi=daisy.Roi((0, 0, 0), (blocks // 1000, 100, 10)),
        read_roi=one,
        write_roi=one,
        process_function=function,
        read_write_conflict=False,
        max_workers=WORKERS,
        tracking_path=str(tracking),
    )
    return lambda: daisy.run_blockwise(task, progress=False, summary=False)


def measure(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def compare(name: str, unit: str, mine: float, peers: float) -> None:
        rows.append({"name": name, "unit": unit, "ours": mine, "daisy": peers, "ratio": peers / mine})
        print(f"{name}: {mine:.3g} {unit}, daisy {peers:.3g} {unit}: {peers / mine:.2f} times as fast", flush=True)

    empty, peers_empty = ours(folder, nothing, BLOCKS), theirs(folder, daisy_nothing, BLOCKS)
    compare(f"{BLOCKS} empty blocks, {WORKERS} workers", "s", seconds(empty), seconds(peers_empty))
    compare("the same again, all done already", "s", seconds(empty), seconds(peers_empty))
    added = [
        (marginal(partial(ours, folder, wait)), marginal(partial(theirs, folder, daisy_wait))) for _ in range(ROUNDS)
    ]
    for position, what in enumerate(("processor time of a block", "wall time between two blocks of a worker")):
        mine, peers = (statistics.median(found[engine][position] for found in added) for engine in (0, 1))
        compare(f"{what}, blocks of {WAIT * 1000:g} ms, median of {ROUNDS} rounds", "ms", mine, peers)
    return rows


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench_blockwise_"))
    os.environ["INCASEM_JOBS"] = str(folder / "jobs")
    daisy.logging.set_log_basedir(str(folder / "daisy_logs"))
    try:
        rows = measure(folder)
    finally:
        shutil.rmtree(folder)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.machine(), "daisy": daisy.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
