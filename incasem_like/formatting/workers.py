"""Useful number of processes for a volume."""

from __future__ import annotations

VOXELS_PER_WORKER = 2**24  # a process takes about a second to start; in that time one processes some ten million voxels


def useful_workers(num_workers: int, voxels: int) -> int:
    """Return the useful number of processes for a volume of so many voxels, at most ``num_workers``."""
    return max(1, min(num_workers, voxels // VOXELS_PER_WORKER))
