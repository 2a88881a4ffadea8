"""Writing synthetic tissue block by block: raw, instances of neurites and classes, of any size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import InputError
from incasem_like.synthetic.tissue import CLASS_NAMES, Tissue, TissueParameters
from incasem_like.volumes import make_provenance

DATASETS = ("volumes/raw", "volumes/labels/neurites", "volumes/labels/classes")


def make_tissue(
    output: Path,
    shape: tuple[int, int, int],
    voxel_size: tuple[float, float, float],
    *,
    seed: int = 0,
    parameters: TissueParameters | None = None,
    chunk_shape: tuple[int, int, int] = (128, 128, 128),
    num_workers: int = 1,
    workers: Workers | None = None,
    overwrite: bool = False,
) -> bool:
    """Write a volume of tissue: ``volumes/raw``, ``volumes/labels/neurites`` and ``volumes/labels/classes``.

    Its voxels do not depend on chunks or workers. Missing sections are listed in the attribute ``missing_sections`` of
    raw; labels and classes show what would be there.

    Args:
        output: Container.
        shape: Shape in voxels, (z, y, x).
        voxel_size: (z, y, x) in nm.
        seed: Seed of everything random.
        parameters: What it looks like.
        chunk_shape: Chunks and blocks, voxels.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        overwrite: Replace an existing volume.

    Returns:
        Whether an earlier call had written it.

    Raises:
        InputError: Voxels are larger than a third of a neurite, a number is not valid, or another volume exists there.
    """
    tissue = Tissue(parameters or TissueParameters(), seed, shape, voxel_size)
    largest = tissue.pitch / 3
    if min(shape) < 1 or seed < 0 or not 0 < min(voxel_size) <= max(voxel_size[1:]) <= largest:
        raise InputError(
            f"Got --shape {list(shape)}, --voxel_size {list(voxel_size)}, --seed {seed}: give 1 or more voxels, sizes "
            f"above 0 and for y and x up to {largest:g} nm, a third of a neurite, and a seed of 0 or more."
        )
    record = {
        "shape": list(shape),
        "voxel_size": list(voxel_size),
        "seed": seed,
        "parameters": tissue.parameters.model_dump(),
    }
    provenance = make_provenance("make_tissue", record)
    missing = [z for z in range(shape[0]) if tissue.is_missing(z)]
    attributes: tuple[dict[str, Any], ...] = (
        {"missing_sections": missing} if missing else {},
        {},
        {"class_names": list(CLASS_NAMES)},
    )
    types = (np.dtype(np.uint8), tissue.label_dtype, np.dtype(np.uint8))
    outputs = [
        create_or_resume_output(
            str(output),
            dataset,
            shape=shape,
            dtype=dtype,
            voxel_size=voxel_size,
            chunk_shape=chunk_shape,
            provenance=provenance,
            attributes=more,
            overwrite=overwrite,
        )
        for dataset, dtype, more in zip(DATASETS, types, attributes, strict=True)
    ]
    task = BlockTask(
        "generate tissue", outputs[0], (), tissue_block, record, chunk_shape, further_outputs=tuple(outputs[1:])
    )
    summary = run_blockwise(task, num_workers=num_workers, workers=workers, description="Generating")
    return summary.already_complete


def tissue_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write a block of raw, neurites and classes."""
    (sections, rows, columns), size = parameters["shape"], parameters["voxel_size"]
    tissue = Tissue(
        TissueParameters.model_validate(parameters["parameters"]),
        parameters["seed"],
        (sections, rows, columns),
        (size[0], size[1], size[2]),
    )
    roi = block.write_roi
    (z, y, x), (depth, height, width) = roi.begin, roi.shape
    arrays = tissue.block((z, y, x), (depth, height, width))
    for volume, array in zip(block.outputs, arrays, strict=True):
        volume.write(array, roi)
