"""Datasets made from other datasets, block by block: the request, the operation, and the call that runs it.

An operation says what the voxels of one block are, and which voxels there are; everything else (checks before anything
is written, bounded memory, resuming, provenance, the ``complete`` flag) is here, the same for all.
"""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.workers_file import Workers, given_workers
from incasem_like.errors import InputError
from incasem_like.formatting.workers import useful_workers
from incasem_like.terminal import report_written
from incasem_like.volumes import Roi, Volume, check_outputs, make_provenance, open_volume, parse_address
from incasem_like.volumes.parts import shuffled_parts
from incasem_like.volumes.values import check_label_dtype, check_labels
from incasem_like.volumes.volume import Outside

Array = npt.NDArray[Any]
VOXELS_AT_ONCE = 1 << 22
MOST_CONTEXT = 256  # voxels on each side of a block, of which a worker holds as many again


@dataclass(frozen=True)
class DatasetWritten:
    """A dataset that has been written.

    Attributes:
        address: Address of the dataset.
        already_complete: Whether an earlier call had written it.
        note: Further information for the user, such as ignored files; may be empty.
        next_command: The next useful command, or None.
    """

    address: str
    already_complete: bool
    note: str = ""
    next_command: str | None = None

    def report(self, what: str, next_command: str | None) -> None:
        """Print what was written, or that it existed already, and the next command."""
        next_command = next_command or self.next_command
        if self.note:
            print(self.note)
        if self.already_complete:
            print(f"Already complete: {self.address}")
            if next_command:
                print(f"Next: {next_command}")
        else:
            report_written(what, self.address, next_command)


# Attributes that say what values and channels are; without them a copy of a prediction would be misread.
MEANING = ("scale", "target", "activation", "value_range", "channel_names", "offsets", "sigma")


@dataclass(frozen=True)
class Operation:
    """What the voxels of a derived dataset are, and where they lie.

    Attributes:
        name: Name of the operation, for provenance and progress.
        function: Top-level function ``(block, parameters)`` that returns the voxels of ``block.write_roi`` with all
            their channels; ``block.inputs[0]`` is the source.
        parameters: JSON-serializable; passed to the function, and part of the provenance.
        dtype: Data type of the output; None for that of the source.
        voxel_size: Voxel size of the output, (z, y, x) in nm; None for that of the source.
        roi: Extent of the output in voxels of its own grid; None for that of the source.
        offset: Position of the output's first voxel, (z, y, x) in nm; None for that of the source's voxel there.
        context: Voxels that a block reads beyond what it writes, on each side (z, y, x).
        labels: Whether the source must hold labels.
        channels: Whether the source may have channels; the output has the same.
        further_inputs: Further volumes that the result depends on; ``block.inputs`` after the source.
        meaning: Names of the source's attributes that hold for the output as well, see ``MEANING``.
        recorded: What the provenance records instead of long parameters.
        set_up: As of a ``BlockTask``.
    """

    name: str
    function: Callable[[Block, Mapping[str, Any]], Array]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dtype: npt.DTypeLike | None = None
    voxel_size: tuple[float, ...] | None = None
    roi: Roi | None = None
    offset: tuple[float, ...] | None = None
    context: tuple[int, int, int] = (0, 0, 0)
    labels: bool = False
    channels: bool = False
    further_inputs: tuple[Volume, ...] = ()
    meaning: tuple[str, ...] = ()
    recorded: Mapping[str, Any] | None = None
    set_up: Callable[[Mapping[str, Any]], Any] | None = None


@dataclass(frozen=True)
class Derivation:
    """A request to make one dataset from another.

    Attributes:
        container: Container of the source.
        dataset: The dataset to read.
        out_dataset: The dataset to write.
        chunk_shape: Chunk shape of the output, voxels; None for that of the source.
        num_workers: Maximum number of processes.
        overwrite: Replace an existing output.
        cluster: Workers of a workers file, instead of local processes.
        out_container: Container of the output; None for that of the source.
        storage: Further arguments of ``create_volume``: ``format``, ``shard_shape``, ``compression``.
    """

    container: str
    dataset: str
    out_dataset: str
    chunk_shape: tuple[int, int, int] | None = (128, 128, 128)
    num_workers: int = 1
    overwrite: bool = False
    cluster: Workers | None = None
    out_container: str | None = None
    storage: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Build it from the arguments that all scripts of derived datasets share.

        Raises:
            ConfigError: The workers file is invalid.
        """
        return cls(
            arguments.filename,
            arguments.dataset,
            arguments.out_dataset,
            tuple(arguments.chunk_shape),
            arguments.num_workers,
            arguments.overwrite,
            given_workers(arguments),
        )

    def open_source(self, *, channels: bool = False) -> Volume:
        """Open the source.

        Args:
            channels: Whether it may have channels.

        Raises:
            DataError: The source is missing, incomplete, or not 3-D.
            InputError: The output would replace the source.
        """
        source = open_volume(self.container, self.dataset)
        if not (channels and source.axes == "czyx"):
            source.require_zyx()
        output = parse_address(self.out_container or self.container, self.out_dataset)
        check_outputs([output], [source.address], "choose another --out_dataset")
        return source

    def open_output(
        self,
        source: Volume,
        tool: str,
        parameters: Mapping[str, Any],
        *,
        dtype: npt.DTypeLike = np.uint8,
        voxel_size: tuple[float, ...] | None = None,
        roi: Roi | None = None,
        offset: tuple[float, ...] | None = None,
        further_inputs: tuple[Volume, ...] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> Volume:
        """Create the output, or open the one that an earlier call began.

        Raises:
            InputError: Another dataset exists there, without ``overwrite``.
        """
        extent = source.roi if roi is None else roi
        return create_or_resume_output(
            self.out_container or self.container,
            self.out_dataset,
            shape=(*source.shape[:-3], *extent.shape),
            dtype=dtype,
            voxel_size=voxel_size or source.voxel_size,
            offset=source.corner(extent.begin) if offset is None else offset,
            axes=source.axes,
            chunk_shape=self.blocks(source),
            provenance=make_provenance(tool, parameters, [source, *further_inputs]),
            attributes=attributes,
            overwrite=self.overwrite,
            **self.storage,
        )

    def blocks(self, source: Volume) -> tuple[int, ...]:
        """Return the shape (z, y, x) of chunks and blocks in voxels."""
        return self.chunk_shape or source.chunk_shape[-3:]

    def workers(self, volume: Volume) -> int:
        """Return the useful number of processes for a volume."""
        return useful_workers(self.num_workers, int(np.prod(volume.shape)))

    def run_options(self, volume: Volume) -> dict[str, Any]:
        """Return ``num_workers`` and ``workers`` of ``run_blockwise`` for a volume."""
        return {"num_workers": self.workers(volume), "workers": self.cluster}

    def run(self, task: BlockTask, description: str) -> DatasetWritten:
        """Fill the output block by block, on the requested workers.

        Raises:
            IncasemError: As ``run_blockwise``.
        """
        summary = run_blockwise(task, **self.run_options(task.output), description=description)
        return DatasetWritten(str(task.output.address), summary.already_complete)


def derive(derivation: Derivation, plan: Callable[..., Operation], /, **options: Any) -> DatasetWritten:
    """Make one dataset from another.

    Args:
        derivation: Source, output and workers.
        plan: Function ``(source, derivation, **options)`` that checks the source and returns the operation.
        **options: Its further arguments.

    Raises:
        DataError: The source is missing, or its values do not suit the operation.
        InputError: The output exists with other parameters, or is the source itself; or the operation needs more than
            ``MOST_CONTEXT`` voxels around each block.
    """
    source = derivation.open_source(channels=True)
    planned = plan(source, derivation, **options)
    if not planned.channels:
        source.require_zyx()
    if max(planned.context) > MOST_CONTEXT:
        raise InputError(
            f"{planned.name.replace('_', ' ')} would read {max(planned.context)} voxels around each block, more than "
            f"{MOST_CONTEXT}: give a smaller number, or downsample the volume first."
        )
    if planned.labels:
        check_label_dtype(source)
        first = shuffled_parts(source, source.roi, VOXELS_AT_ONCE)[0]  # before an output is created
        check_labels(source.read(first), str(source.address), first.begin)
    output = derivation.open_output(
        source,
        planned.name,
        planned.parameters if planned.recorded is None else planned.recorded,
        dtype=source.dtype if planned.dtype is None else planned.dtype,
        voxel_size=planned.voxel_size,
        roi=planned.roi,
        offset=planned.offset,
        further_inputs=planned.further_inputs,
        attributes={key: value for key, value in source.attributes.items() if key in planned.meaning},
    )
    task = BlockTask(
        planned.name,
        output,
        tuple(str(volume.address) for volume in (source, *planned.further_inputs)),
        _Written(planned.function),
        dict(planned.parameters),
        derivation.blocks(source),
        planned.context,
        set_up=planned.set_up,
    )
    return derivation.run(task, planned.name.replace("_", " ").capitalize())


class _Written:
    """A function that returns the voxels of a block, as one that writes them, under the same name."""

    def __init__(self, function: Callable[[Block, Mapping[str, Any]], Array]) -> None:
        functools.update_wrapper(self, function)
        self.function = function  # after it, since it copies the attributes of a wrapped object

    def __call__(self, block: Block, parameters: Mapping[str, Any]) -> None:
        voxels = self.function(block, parameters)
        block.output.write(np.ascontiguousarray(voxels), block.write_roi)


def derive_volume(
    derivation: Derivation,
    function: Callable[..., npt.NDArray[np.uint8]],
    parameters: Mapping[str, Any],
    *,
    context: int,
    outside: Outside = "constant",
) -> DatasetWritten:
    """Apply a function of labels to a whole volume.

    Args:
        derivation: Source labels, of any integer type, and output.
        function: Top-level function ``(labels, **parameters) -> uint8``; a voxel of its result depends on labels at
            most ``context`` voxels away along each axis.
        parameters: Parameters of the function.
        context: Context in voxels on each side.
        outside: Padding beyond the volume: ``"constant"`` 0, or its mirror image (``"reflect"``).

    Raises:
        DataError: The dataset is missing, or does not hold labels.
        InputError: The output exists with other parameters, or is the source itself.
    """
    operation = Operation(
        function.__name__,
        OfLabels(function, outside),
        parameters,
        dtype=np.uint8,
        context=(context,) * 3,
        labels=True,
    )
    return derive(derivation, lambda *_: operation)


class OfLabels:
    """A function of an array of labels, as one of blocks, under the same name."""

    def __init__(self, function: Callable[..., Array], outside: Outside = "constant") -> None:
        self.function, self.outside = function, outside
        functools.update_wrapper(self, function)

    def __call__(self, block: Block, parameters: Mapping[str, Any]) -> Array:
        """Return the result for a block."""
        source = block.inputs[0]
        labels = source.read(block.read_roi, outside=self.outside)
        inner = (block.write_roi - block.read_roi.begin).to_slices()
        check_labels(labels[inner], str(source.address), block.write_roi.begin)
        return np.asarray(self.function(labels, **parameters)[inner])
