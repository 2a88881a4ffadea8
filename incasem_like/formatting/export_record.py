"""The record in a folder of exported sections: source and parameters, to compare with those of a new request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incasem_like.blockwise.done_log import first_difference
from incasem_like.formatting.section_writing import SectionPlan
from incasem_like.volumes import Volume, make_provenance

RECORD_NAME = "provenance.json"


def make_record(plan: SectionPlan, dtype: str | None, absolute: bool) -> dict[str, Any]:
    """Return the record of an export; it is equal for a repeated call, which thereby recognises its own work.

    Args:
        plan: Plan of the sections.
        dtype, absolute: The requested options; see ``make_plan``.
    """
    volume = plan.volume
    return {
        "source": str(volume.address),
        "source_content": volume.content_hash,
        "voxel_size": None if volume.voxel_size is None else list(volume.voxel_size),
        "offset": list(volume.offset),
        "shape": [int(size) for size in volume.shape],
        "dtype": plan.dtype.name,
        "first_section": plan.first_number,
        "parameters": {"dtype": dtype, "absolute": absolute},
    }


def read_record(directory: Path) -> dict[str, Any]:
    """Read a folder's record without its provenance (times and versions); empty if it is missing."""
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in record.items() if key != "provenance"} if isinstance(record, dict) else {}


def write_record(directory: Path, record: Mapping[str, Any], volume: Volume) -> None:
    """Write a record with the provenance of the sections atomically."""
    provenance = make_provenance("export_sections", record["parameters"], [volume])
    written = directory / f"{RECORD_NAME}.writing"
    written.write_text(json.dumps({**record, "provenance": provenance}, indent=2, default=str))
    written.replace(directory / RECORD_NAME)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return a description of the first difference between two records, as ``first_difference``."""
    return first_difference(_with_content(before), _with_content(now))


def _with_content(record: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in record.items() if not key.startswith("source")}
    return {"source": {"address": record.get("source"), "content": record.get("source_content")}, **rest}
