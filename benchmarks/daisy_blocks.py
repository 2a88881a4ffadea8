"""The peer of ``bench_blockwise.py``, in a process of its own: ``daisy_blocks.py KIND BLOCKS FOLDER``.

Prints seconds and processor seconds of one run, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

import daisy
import daisy.logging

WORKERS = 2
SECONDS = {"nothing": 0.0, "wait": 0.005}


def nothing(block: daisy.Block) -> None:
    """Do nothing with a block."""


def wait(block: daisy.Block) -> None:
    """Take a known time for a block."""
    time.sleep(SECONDS["wait"])


def main() -> None:
    kind, blocks, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    daisy.logging.set_log_basedir(folder)
    one = daisy.Roi((0, 0, 0), (1, 1, 1))
    task = daisy.Task(
        kind,
        total_roi=daisy.Roi((0, 0, 0), (blocks // 1000, 100, 10)),
        read_roi=one,
        write_roi=one,
        process_function={"nothing": nothing, "wait": wait}[kind],
        read_write_conflict=False,
        max_workers=WORKERS,
        tracking_path=folder,
    )
    before, began = os.times(), time.perf_counter()
    assert daisy.run_blockwise(task, progress=False, summary=False)
    used = sum(os.times()[:4]) - sum(before[:4])
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu": used}))


if __name__ == "__main__":
    main()
