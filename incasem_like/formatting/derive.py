"""Volumes derived block by block from another volume by a local function: masks and label maps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask
from incasem_like.blockwise.grid import shuffled_parts
from incasem_like.formatting.outputs import DatasetWritten, Derivation
from incasem_like.volumes.values import check_label_dtype, check_labels
from incasem_like.volumes.volume import Outside

ArrayFunction = Callable[..., npt.NDArray[np.uint8]]
VOXELS_AT_ONCE = 1 << 22


def derive_volume(
    derivation: Derivation,
    function: ArrayFunction,
    parameters: Mapping[str, Any],
    *,
    context: int,
    outside: Outside = "constant",
) -> DatasetWritten:
    """Apply a function of labels to a whole volume.

    Args:
        derivation: Input labels, of any integer type, and output.
        function: Top-level function ``(labels, **parameters) -> uint8``; a voxel of its result depends on labels at
            most ``context`` voxels away along each axis.
        parameters: Parameters of the function.
        context: Context in voxels on each side.
        outside: Padding beyond the volume: ``"constant"`` 0, or its mirror image (``"reflect"``).

    Raises:
        DataError: The dataset is missing, or does not hold labels.
        InputError: The output exists with other parameters, or is the input itself.
    """
    source = derivation.open_source()
    check_label_dtype(source)
    looked_at = shuffled_parts(source, source.roi, VOXELS_AT_ONCE)[0]  # before an output is created
    check_labels(source.read(looked_at), str(source.address), looked_at.begin)
    name = function.__name__
    output = derivation.open_output(source, name, parameters)
    task = BlockTask(
        name,
        output,
        (str(source.address),),
        _BlockFunction(function, outside),
        dict(parameters),
        derivation.chunk_shape,
        (context,) * 3,
    )
    description = name.replace("_", " ").capitalize()
    return derivation.run(task, source, description)


class _BlockFunction:
    """A function of arrays wrapped as a function of blocks, under the array function's name."""

    def __init__(self, function: ArrayFunction, outside: Outside) -> None:
        self.function, self.outside = function, outside
        functools.update_wrapper(self, function)

    def __call__(self, block: Block, parameters: Mapping[str, Any]) -> None:
        source = block.inputs[0]
        labels = source.read(block.read_roi, outside=self.outside)
        inner = (block.write_roi - block.read_roi.begin).to_slices()
        check_labels(labels[inner], str(source.address), block.write_roi.begin)
        block.output.write(np.ascontiguousarray(self.function(labels, **parameters)[inner]), block.write_roi)
