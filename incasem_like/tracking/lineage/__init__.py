"""Lineage: which data and runs a run came from, and what came of it."""

from incasem_like.tracking.lineage.datasets import Making, data_key, input_hashes, making_of, run_key, split_address
from incasem_like.tracking.lineage.gathering import gather, outputs, written_by
from incasem_like.tracking.lineage.graph import DATA, MISSING, Lineage, Link, Node

__all__ = [
    "DATA",
    "MISSING",
    "Lineage",
    "Link",
    "Making",
    "Node",
    "data_key",
    "gather",
    "input_hashes",
    "making_of",
    "outputs",
    "run_key",
    "split_address",
    "written_by",
]
