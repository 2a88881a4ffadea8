"""Whether one run is better than another: their evaluations compared on the same voxels."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from incasem_like.errors import InputError
from incasem_like.evaluation.blocks import ARTIFACT, Comparison, Parts, VoxelParts, compare
from incasem_like.evaluation.instance_run import unpack_parts
from incasem_like.tracking.kinds import singular

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord, RunStore


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation run scored.

    Attributes:
        record: The run.
        name: Address of the segmentation, or all volumes; None for a probability map, at its best threshold.
    """

    record: RunRecord
    name: str | None

    def parts(self, metric: str | None = None) -> Parts:
        """Return the counts per part of the volume that a score is made of.

        Raises:
            InputError: The run stored none.
        """
        found: Parts | None = None
        if ARTIFACT in self.record.artifacts:
            packed = self.record.artifact(ARTIFACT)
            if self.name is None:
                with np.load(io.BytesIO(packed), allow_pickle=False) as file:
                    found = VoxelParts(file["numbers"], file["counts"])
            else:
                found = unpack_parts(packed, self.name, metric)
        if found is None:
            raise InputError(
                f"Evaluation run {self.record.id} holds no counts per part of its volume (its status is "
                f"{self.record.status}): evaluate again."
            )
        return found


def evaluation_of(record: RunRecord, evaluations: Callable[[], RunStore]) -> Evaluated:
    """Return the latest evaluation of a run: its own best one, or that of what came from the run.

    Raises:
        InputError: The run was not evaluated.
    """
    if record.kind == "evaluations":
        result = record.result if isinstance(record.result, Mapping) else {}
        return Evaluated(record, (result.get("best") or None) if "scores" in result else None)
    key, store = f"{record.kind}/{record.id}", evaluations()
    for summary in reversed(store.summaries()):
        result = summary.result if isinstance(summary.result, Mapping) else {}
        seen = {name: (scores or {}).get("seen") for name, scores in (result.get("scores") or {}).items()}
        for name, about in (seen or {None: result.get("seen")}).items():
            if isinstance(about, Mapping) and key in (about.get("lineage") or ()):
                return Evaluated(store.get(summary.id), name)
    raise InputError(
        f"{singular(record.kind).capitalize()} run {record.id} has no evaluation: run 15_evaluate_segmentation.py or "
        "05_evaluate_metric.py on what it made."
    )


def compare_evaluations(evaluated: Sequence[Evaluated], metric: str | None = None) -> list[tuple[int, int, Comparison]]:
    """Compare every pair of some evaluations.

    Args:
        evaluated: Evaluations of the same voxels.
        metric: A score of both; None: ``voi`` of segmentations, ``dice`` of probabilities.

    Returns:
        For each pair the indices and the comparison.

    Raises:
        InputError: They were evaluated on different voxels, or have no such metric.
    """
    first = evaluated[0].record
    for other in (one.record for one in evaluated[1:]):
        if (first.result or {}).get("evaluated") != (other.result or {}).get("evaluated"):
            raise InputError(
                f"Evaluation runs {first.id} and {other.id} scored different voxels (labels, mask, ROI or left-out "
                "voxels differ), so their scores cannot be compared: evaluate both on the same."
            )
    parts = [one.parts(metric) for one in evaluated]
    chosen = metric or ("dice" if isinstance(parts[0], VoxelParts) else "voi")
    return [(i, j, compare(parts[i], parts[j], chosen)) for i, j in combinations(range(len(parts)), 2)]
