"""What a run says of where it comes from: of one run, or of several where the mean of their networks was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS_BY_KEY = {
    "training_run_id": "trainings",
    "prediction_run_id": "predictions",
    "segmentation_run_id": "segmentations",
}


def origins(parent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List what a run notes under ``parent``, a mapping for each run: itself, or its ``members``."""
    members = parent.get("members")
    listed = [member for member in members if isinstance(member, Mapping)] if isinstance(members, list) else []
    return listed or [parent]


def named_runs(origin: Mapping[str, Any]) -> list[tuple[str, int]]:
    """List the runs, as pairs of kind and id, that one of these names."""
    ids = ((kind, origin.get(key)) for key, kind in KINDS_BY_KEY.items())
    return [(kind, number) for kind, number in ids if type(number) is int and number >= 1]
