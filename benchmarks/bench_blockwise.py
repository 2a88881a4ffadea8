"""What scheduling costs, against daisy 2: same grid, same number of worker processes, finished blocks kept on disk.

The blocks do nothing, or wait 5 ms, so that all that is measured is what an engine adds; processor time rather than
wall time where it is small, since other work on the machine would drown it. Ours notes every block in its log, checks
the output's fingerprint and proves every message; daisy keeps its tracking group.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import daisy
import daisy.logging

from incasem_like.blockwise import Block, BlockTask, run_blockwise
from incasem_like.volumes import create_volume

RESULTS = Path(__file__).parent / "results" / "blockwise.json"
WORKERS = 2
BLOCKS = 100_000
WAITING_BLOCKS = (1_000, 4_000)
WAIT = 0.005


def nothing(block: Block, parameters: Mapping[str, Any]) -> None:
    """Do nothing with a block."""


def wait(block: Block, parameters: Mapping[str, Any]) -> None:
    """Take a known time for a block."""
    time.sleep(WAIT)


def daisy_nothing(block: daisy.Block) -> None:
    """Do nothing with a block of daisy's."""


def daisy_wait(block: daisy.Block) -> None:
    """Take a known time for a block of daisy's."""
    time.sleep(WAIT)


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


def marginal(engine: Callable[[int], Callable[[], object]]) -> float:
    """Return the processor time of one more block, in ms; the start of the workers falls out, waiting takes none."""
    few, many = WAITING_BLOCKS
    return (cpu_seconds(engine(many)) - cpu_seconds(engine(few))) / (many - few) * 1000


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

    mine, peers = ours(folder, nothing, BLOCKS), theirs(folder, daisy_nothing, BLOCKS)
    compare(f"{BLOCKS} empty blocks, {WORKERS} workers", "s", seconds(mine), seconds(peers))
    compare("the same again, all done already", "s", seconds(mine), seconds(peers))
    compare(
        f"processor time added to a block of {WAIT * 1000:g} ms, both sides together",
        "ms",
        marginal(lambda blocks: ours(folder, wait, blocks)),
        marginal(lambda blocks: theirs(folder, daisy_wait, blocks)),
    )
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
