"""What the engine under blocks costs, against daisy 2: same grid, two worker processes, finished blocks kept on disk.

The blocks do nothing, or wait, so that all that is measured is what an engine adds. The engines take turns, and medians
are printed. Beside clock time stands the processor time of the calling process and its workers, which other load on the
machine changes little. daisy runs in an environment of its own, which is made in the cache at the first call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from block_functions import nothing, wait
from peers import python_with

from incasem_like.blockwise import Block, BlockTask, run_blockwise
from incasem_like.volumes import create_volume

RESULTS = Path(__file__).parent / "results" / "blockwise.json"
PEER = Path(__file__).with_name("daisy_blocks.py")
DAISY = "daisy==2.0.0"
WORKERS = 2
Measured = dict[str, float]


def ours(
    folder: Path, function: Callable[[Block, Mapping[str, Any]], None], blocks: int, seconds: float = 0.0, **again: bool
) -> Measured:
    """Run blocks on our engine, or only resume what is done."""
    output = create_volume(
        folder / "ours.zarr/out",
        shape=(blocks // 10, 10, 1),
        dtype="uint8",
        voxel_size=(1, 1, 1),
        chunk_shape=(1, 1, 1),
        overwrite=True,
    )
    task = BlockTask("empty", output, (), function, {"seconds": seconds}, (1, 1, 1))
    if again:
        run_blockwise(task, num_workers=WORKERS)
    before, began = os.times(), time.perf_counter()
    run_blockwise(task, num_workers=WORKERS)
    used = sum(os.times()[:4]) - sum(before[:4])
    return {"seconds": time.perf_counter() - began, "cpu": used}


def theirs(python: str, folder: Path, kind: str, blocks: int) -> Measured:
    """Run blocks on daisy."""
    place = folder / "daisy"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    said = subprocess.check_output([python, PEER, kind, str(blocks), place], text=True, cwd=place)
    measured: Measured = json.loads(said.splitlines()[-1])
    return measured


def median(rounds: list[Measured], key: str) -> float:
    return statistics.median(one[key] for one in rounds)


def measure(folder: Path, rounds: int, blocks: int, most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    python = python_with("daisy", DAISY)

    def note(name: str, mine: list[Measured], peers: list[Measured] | None = None, **further: float) -> None:
        row: dict[str, Any] = {"name": name, "seconds": median(mine, "seconds"), "cpu": median(mine, "cpu"), **further}
        text = f"{name}: {row['seconds']:.2f} s, processors {row['cpu']:.2f} s"
        if peers:
            row |= {"daisy seconds": median(peers, "seconds"), "daisy cpu": median(peers, "cpu")}
            text += f"; daisy {row['daisy seconds']:.2f} s, processors {row['daisy cpu']:.2f} s"
        rows.append(row)
        print(text + "".join(f"; {key} {value:.4g}" for key, value in further.items()), flush=True)

    turns = [(ours(folder, nothing, blocks), theirs(python, folder, "nothing", blocks)) for _ in range(rounds)]
    note(f"{blocks} empty blocks", *map(list, zip(*turns, strict=True)))
    note(f"{blocks} blocks that are done already", [ours(folder, nothing, blocks, again=True) for _ in range(rounds)])
    note("a call of 1000 empty blocks", [ours(folder, nothing, 1000) for _ in range(rounds)])
    turns = [(ours(folder, wait, 4000, 0.005), theirs(python, folder, "wait", 4000)) for _ in range(rounds)]
    note("4000 blocks of 5 ms", *map(list, zip(*turns, strict=True)))
    few, many = ([ours(folder, wait, count, 1.0) for _ in range(rounds)] for count in (20, 80))
    added = (median(many, "seconds") - median(few, "seconds")) / (60 / WORKERS) - 1
    note("80 blocks of 1 s", many, **{"share added to a block": added})
    if most:
        run = ours(folder, nothing, most)
        note(f"{most} empty blocks", [run], MiB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=100_000)
    parser.add_argument("--most", type=int, default=1_000_000, help="blocks for the memory of the caller; 0: none")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench_blockwise_"))
    os.environ["INCASEM_JOBS"] = str(folder / "jobs")
    try:
        rows = measure(folder, arguments.rounds, arguments.blocks, arguments.most)
    finally:
        shutil.rmtree(folder)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.machine(), "peer": DAISY, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
