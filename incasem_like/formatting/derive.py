"""Volumes that follow from another voxel by voxel and its neighbourhood: masks and label maps, block by block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask
from incasem_like.blockwise.parts import shuffled_parts
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
        derivation: Labels of any integer type, and where the result goes.
        function: Top-level function ``(labels, **parameters) -> uint8``; a voxel of its result depends on labels at
            most ``context`` voxels away along each axis.
        parameters: Of the function.
        context: Voxels.
        outside: What the function sees beyond the volume: ``"constant"`` 0, or its mirror image (``"reflect"``).

    Raises:
        DataError: No such dataset, or no labels in it.
        InputError: An output made with other parameters, or the input itself as output.
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
    """A function of arrays as a function of blocks; it goes by the array function's name."""

    def __init__(self, function: ArrayFunction, outside: Outside) -> None:
        self.function, self.outside = function, outside
        functools.update_wrapper(self, function)

    def __call__(self, block: Block, parameters: Mapping[str, Any]) -> None:
        source = block.inputs[0]
        labels = source.read(block.read_roi, outside=self.outside)
        inner = (block.write_roi - block.read_roi.begin).to_slices()
        check_labels(labels[inner], str(source.address), block.write_roi.begin)
        block.output.write(np.ascontiguousarray(self.function(labels, **parameters)[inner]), block.write_roi)
