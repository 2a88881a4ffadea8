"""What the stages of all methods share: their outputs, whether they must be repeated, sizes, look-up tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.done_log import read_log
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import write_whole
from incasem_like.segmentation.methods.base import Ids
from incasem_like.segmentation.planning import Segmentation
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.volumes import Volume, dataset_exists, make_provenance, open_volume

TOOL = "segment"
TABLES = "tables"
CHUNK = 64


def output_layout(plan: Segmentation) -> dict[str, Any]:
    """Return the arguments of ``create_volume`` that place an output on the grid of the prediction."""
    prediction = plan.prediction
    sizes = zip(plan.section.block_shape, prediction.spatial_shape, strict=True)
    return {
        "shape": prediction.spatial_shape,
        "voxel_size": prediction.require_voxel_size(),
        "offset": prediction.offset,
        "chunk_shape": tuple(min(CHUNK, block, length) for block, length in sizes),
    }


def stage_output(
    plan: Segmentation, name: str, options: dict[str, Any], task: Callable[[Volume], BlockTask], overwrite: bool
) -> Volume:
    """Create or open an output; with ``overwrite`` it is replaced only if its task has changed."""
    container = plan.prediction.container
    if overwrite and dataset_exists(container, name):
        there = open_volume(container, name, writable=True, allow_incomplete=True)
        overwrite = there.dtype != options["dtype"] or is_stale(task(there))
    return create_or_resume_output(container, name, overwrite=overwrite, **options)


def is_stale(task: BlockTask | LedgerTask) -> bool:
    """Return whether an earlier task with other options, or from other inputs, filled the output."""
    log = read_log(task.folder)
    return log is None or log.fingerprint != json.loads(json.dumps(task.fingerprint()))


def sized_segments(
    segments: Ids, sizes: npt.NDArray[np.int64], section: SegmentationSection
) -> tuple[Ids, dict[str, int]]:
    """Remove segments by their size, renumber the others, and count what was removed."""
    totals = np.bincount(segments.astype(np.int64), sizes, int(segments.max(initial=0)) + 1).astype(np.int64)
    kept = (totals >= max(1, section.min_size)) & (totals <= (section.max_size or np.iinfo(np.int64).max))
    kept[0] = False
    new_ids = np.where(kept, np.cumsum(kept), 0).astype(np.uint64)
    removed = ~kept & (totals > 0)
    removed[0] = False
    counts = {"removed_objects": int(removed.sum()), "removed_voxels": int(totals[removed].sum())}
    return new_ids[segments.astype(np.int64)], counts


def write_segments(
    plan: Segmentation,
    name: str,
    cut: float | None,
    table: tuple[Ids, Ids],
    make_task: Callable[[Volume, Mapping[str, Any]], BlockTask],
    *,
    overwrite: bool,
    run_id: int | None,
    **how: Any,
) -> Volume:
    """Write a segmentation by a look-up table, which is stored beside it under a name derived from its content.

    Args:
        plan: What is segmented.
        name: Dataset.
        cut: Its threshold.
        table: Ids of the fragments, or the first of each block, and the segment of each fragment.
        make_task: Makes the task from the output and its parameters, among them the name of the ``table``.
        overwrite, run_id, how: As for ``pipeline.segment``.
    """
    digest = hashlib.sha256(b"".join(part.tobytes() for part in table)).hexdigest()[:16]
    path = plan.folder / TABLES / f"{Path(name).name}-{digest}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.savez_compressed(file, fragments=table[0], segments=table[1]))
    parameters = plan.parameters(cut)
    options = {
        **output_layout(plan),
        "dtype": np.uint32 if int(table[1].max(initial=0)) < 2**32 else np.uint64,
        "provenance": make_provenance(TOOL, parameters, plan.inputs, run_id),
    }

    def task(output: Volume) -> BlockTask:
        return make_task(output, {**parameters, "table": path.name})

    output = stage_output(plan, name, options, task, overwrite)
    run_blockwise(task(output), description="Segmentation", **how)
    for other in path.parent.glob(f"{Path(name).name}-*.npz"):  # of a segmentation that was replaced
        if other != path:
            other.unlink()
    return output


@lru_cache(maxsize=1)
def read_table(path: Path) -> tuple[Ids, Ids]:
    """Return the table of ``write_segments``, read once in each process."""
    with np.load(path, allow_pickle=False) as table:
        return table["fragments"], table["segments"]
