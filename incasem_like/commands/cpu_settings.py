"""Settings of the process for work on a CPU: memory of large tensors, and threads that wait for each other.

Page faults otherwise take half of the time of a training step: at every step, the kernel maps feature maps of some ten
megabytes anew, with one page fault per four kilobytes. Huge pages reduce the number of faults, and so does memory that
is reused instead of returned to the kernel (``benchmarks/bench_cpu_memory.py``). Nothing here imports torch: all of
this must be set before its first tensor.
"""

from __future__ import annotations

import os


def use_huge_pages() -> None:
    """Make torch request huge pages for its CPU tensors, unless the environment sets that already."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def share_the_cores() -> None:
    """Let torch's threads sleep while they wait for each other, unless the environment sets that already.

    By default OpenMP lets them spin, on cores that the threads for reading, compression and writing need too; on a
    busy machine a prediction then takes three times as long. Must be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
