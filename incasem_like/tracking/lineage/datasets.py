"""Datasets in a lineage: how they are called, which run reads them, and what they say of their own making."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.lineage.graph import DATA

if TYPE_CHECKING:
    from incasem_like.tracking.summaries import RunSummary

_CONTAINER = re.compile(r"^(.*?\.(?:zarr|n5))(?:/(.*))?$", re.IGNORECASE)
_KINDS_BY_TOOL = {
    "predict.py": "predictions",
    "predict_multiple.py": "predictions",
    "extract_segmentation_with_threshold": "segmentations",
}


@dataclass(frozen=True)
class Making:
    """How a dataset was made, as it says itself.

    Attributes:
        tool: The script or function.
        run: Key of the tracked run that made it, or None.
        sources: Addresses of the datasets it was made from.
    """

    tool: str
    run: str | None = None
    sources: tuple[str, ...] = ()

    def describe(self, address: str) -> str:
        """Say it of the dataset at an address: ``raw_equalized_0.02: equalize_histogram from raw``."""
        container = split_address(address)[0]
        names = [source.removeprefix(f"{container}/").removeprefix("volumes/") for source in self.sources]
        return f"{dataset_name(address)}: {self.tool}{' from ' if names else ''}{', '.join(names)}"


def run_key(kind: str, run_id: int) -> str:
    """The key of a run's node."""
    return f"{kind}/{run_id}"


def data_key(address: str) -> str:
    """The key of the node of a container or dataset."""
    return f"{DATA}:{address.rstrip('/')}"


def split_address(address: str) -> tuple[str, str]:
    """Split a dataset's address into its container (up to ``.zarr`` or ``.n5``) and the path inside it."""
    found = _CONTAINER.match(address.rstrip("/"))
    return (found[1], found[2] or "") if found else (address.rstrip("/"), "")


def dataset_name(address: str) -> str:
    """Name a dataset in its container, without the usual ``volumes/``."""
    return split_address(address)[1].removeprefix("volumes/") or address.rpartition("/")[2]


def making_of(provenance: Mapping[str, Any] | None) -> Making | None:
    """Read the provenance that a dataset carries; None where it says nothing."""
    if not provenance or not provenance.get("tool"):
        return None
    tool, run_id = str(provenance["tool"]), provenance.get("run_id")
    kind = _KINDS_BY_TOOL.get(tool)
    made_by = run_key(kind, run_id) if kind and isinstance(run_id, int) and run_id > 0 else None
    entries = [entry for entry in provenance.get("inputs") or () if isinstance(entry, Mapping)]
    return Making(tool, made_by, tuple(str(entry["address"]) for entry in entries if entry.get("address")))


def input_hashes(run: RunSummary) -> dict[str, str]:
    """The datasets that a run read: content hash by address, empty where none is on record."""
    found: dict[str, str] = {}
    for entry in run.inputs:
        hashes = entry.get("content_hashes")
        if isinstance(hashes, Mapping) and hashes:
            found |= {str(address): str(content_hash or "") for address, content_hash in hashes.items()}
        elif place := entry.get("address") or entry.get("file"):
            found[str(place)] = str(entry.get("content_hash") or "")
    return found
