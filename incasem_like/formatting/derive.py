"""Volumes that follow from another voxel by voxel and its neighbourhood: masks and label maps, block by block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.outputs import DatasetWritten
from incasem_like.formatting.workers import useful_workers
from incasem_like.volumes import make_provenance, open_volume
from incasem_like.volumes.volume import Outside

ArrayFunction = Callable[..., npt.NDArray[np.uint8]]


def derive_volume(
    container: str,
    dataset: str,
    out_dataset: str,
    function: ArrayFunction,
    parameters: Mapping[str, Any],
    *,
    context: int,
    outside: Outside = "constant",
    chunk_shape: tuple[int, int, int] = (128, 128, 128),
    num_workers: int = 1,
    overwrite: bool = False,
) -> DatasetWritten:
    """Apply a function of labels to a whole volume.

    Args:
        container: Container of both datasets.
        dataset: Labels, any integer type.
        out_dataset: Result, uint8.
        function: Top-level function ``(labels, **parameters) -> uint8``; a voxel of its result depends on labels at
            most ``context`` voxels away along each axis.
        parameters: Of the function.
        context: Voxels.
        outside: What the function sees beyond the volume: ``"constant"`` 0, or its mirror image (``"reflect"``).
        chunk_shape: Chunks of the result, voxels.
        num_workers: Processes.
        overwrite: Replace what is there.

    Raises:
        DataError: No such dataset, or no labels in it.
        InputError: An output made with other parameters, or the input itself as output.
    """
    source = open_volume(container, dataset)
    if source.axes != "zyx" or source.dtype.kind not in "biu":
        raise DataError(
            f"{source.address} holds {source.dtype} with axes {source.axes}, but labels are integers with axes zyx: "
            "name a dataset of labels."
        )
    if out_dataset.strip("/") == dataset.strip("/"):
        raise InputError(f"The result would replace {source.address}: choose another --out_dataset.")
    name = function.__name__
    output = create_or_resume_output(
        container,
        out_dataset,
        shape=source.shape,
        dtype=np.uint8,
        voxel_size=source.voxel_size,
        offset=source.offset,
        chunk_shape=chunk_shape,
        provenance=make_provenance(name, parameters, [source]),
        overwrite=overwrite,
    )
    task = BlockTask(
        name,
        output,
        (str(source.address),),
        _BlockFunction(function, outside),
        dict(parameters),
        chunk_shape,
        (context,) * 3,
    )
    workers = useful_workers(num_workers, int(np.prod(source.shape)))
    summary = run_blockwise(task, num_workers=workers, description=name.replace("_", " ").capitalize())
    return DatasetWritten(str(output.address), summary.already_complete)


class _BlockFunction:
    """A function of arrays as a function of blocks; it goes by the array function's name."""

    def __init__(self, function: ArrayFunction, outside: Outside) -> None:
        self.function, self.outside = function, outside
        functools.update_wrapper(self, function)

    def __call__(self, block: Block, parameters: Mapping[str, Any]) -> None:
        labels = block.inputs[0].read(block.read_roi, outside=self.outside)
        inner = (block.write_roi - block.read_roi.begin).to_slices()
        block.output.write(np.ascontiguousarray(self.function(labels, **parameters)[inner]), block.write_roi)
