"""Memory for large tensors on a CPU: fewer page faults, which otherwise take half of the time of a training step.

A feature map of some ten megabytes is mapped afresh from the kernel at every step, and faulted in four kilobytes at a
time. Huge pages make the faults few; memory that is kept instead of given back makes them rare
(``benchmarks/bench_cpu_memory.py``). Nothing here imports torch: both have to be said before its first tensor.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER_TRIM = 2**31 - 1


def use_huge_pages() -> None:
    """Let torch ask for huge pages for its CPU tensors, unless the environment says otherwise."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free for the next ones; costs about a third more resident memory.

    Returns:
        Whether the C library took it: it does on Linux with glibc, elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
