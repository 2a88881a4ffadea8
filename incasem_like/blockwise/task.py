"""Tasks: a list of items and the function that processes one; blocks that fill volumes are one kind of item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise.done_log import held, refuse_remote
from incasem_like.blockwise.grid import BlockGrid, block_grid
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import InputError
from incasem_like.volumes import (
    Roi,
    Volume,
    check_outputs,
    create_volume,
    dataset_exists,
    describe_roi,
    open_volume,
    parse_address,
)

HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One item, as the task's function receives it.

    Attributes:
        number: Number of the item in its task.
        folder: Folder of the log of finished items.
        inputs: The input volumes, opened in this process, in the order of the task's ``inputs``.
        prepared: The result of the task's ``set_up`` in this process; None without one.
        data: The result of the task's ``read`` for this item; None without one.
        advance: Called with the number of further voxels that are done, for progress within long items.
    """

    number: int
    folder: Path
    inputs: tuple[Volume, ...]
    prepared: Any
    data: Any = None
    advance: Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Block(WorkItem):
    """One block of a volume.

    Attributes:
        write_roi: The ROI that the function must write, in absolute voxels.
        read_roi: ``write_roi`` and the context around it, in absolute voxels; may extend beyond the volume.
        outputs: The task's ``output`` followed by its ``further_outputs``, opened for writing in this process.
    """

    write_roi: Roi
    read_roi: Roi
    outputs: tuple[Volume, ...] = ()

    @property
    def output(self) -> Volume:
        """The first output."""
        return self.outputs[0]


class WorkTask(ABC):
    """A list of items and the function to apply to each; see ``BlockTask`` for the meaning of the attributes."""

    name: str
    inputs: tuple[str, ...]
    function: Callable[[Any, Mapping[str, Any]], Any]
    parameters: Mapping[str, Any]
    set_up: Callable[[Mapping[str, Any]], Any] | None = None
    read: Callable[[Any, Mapping[str, Any]], Any] | None = None
    write: Callable[[Any, Any], None] | None = None
    threads: bool = True
    model_hash: str | None = None
    retries: int = 2
    time_limit: float = HOUR
    unit: str = "voxels"
    grid: BlockGrid | None = None  # where the items are blocks of a volume
    names: tuple[str, ...] = ()  # of the items where they are not
    outputs: tuple[Volume, ...] = ()

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the log of finished items."""

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.names) if self.grid is None else len(self.grid)

    def layout(self) -> dict[str, Any]:
        """Describe the list of items for the fingerprint, JSON-serializable."""
        return {"items": len(self)} if self.grid is None else self.grid.layout()

    def make_item(self, number: int, **known: Any) -> WorkItem:
        """Make an item from the attributes that all items have."""
        if self.grid is None:
            return WorkItem(number=number, **known)
        write_roi = self.grid.write_roi(number)
        read_roi = self.grid.read_roi(write_roi)
        return Block(number=number, write_roi=write_roi, read_roi=read_roi, outputs=self.outputs, **known)

    def name_of(self, number: int) -> str:
        """Return what an item is called in errors."""
        return self.names[number] if self.grid is None else describe_roi(self.grid.write_roi(number))

    @property
    def size(self) -> int:
        """Amount of all items."""
        return len(self) if self.grid is None else self.grid.roi.size

    @property
    def complete(self) -> bool:
        """Whether the results are marked complete, by this or another process."""
        return False

    def amount(self, numbers: Sequence[int]) -> int:
        """Return the amount of work in some items, in the task's unit of progress."""
        return len(numbers) if self.grid is None else self.grid.voxels(numbers)

    def mark_complete(self) -> None:  # noqa: B027
        """Note that every item is done."""

    @property
    def staged(self) -> bool:
        """Whether workers prefetch or write behind."""
        return self.threads and (self.read is not None or self.write is not None)

    def open_inputs(self) -> tuple[Volume, ...]:
        """Open the inputs in this process.

        Raises:
            DataError: One is missing or incomplete.
        """
        return tuple(open_volume(address) for address in self.inputs)

    def fingerprint(self) -> dict[str, Any]:
        """Describe everything that the results depend on, JSON-serializable.

        Inputs are identified by content, not by path, so that a folder may be moved between two calls.
        """
        fingerprint: dict[str, Any] = {
            "task": self.name,
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "parameters": dict(self.parameters),
            "inputs": [
                {"address": str(volume.address), "content": volume.content_hash} for volume in self.open_inputs()
            ],
            "layout": self.layout(),
        }
        if self.model_hash is not None:
            fingerprint["model"] = self.model_hash
        return fingerprint


@dataclass(frozen=True)
class BlockTask(WorkTask):
    """A function applied to all blocks of the volumes that it fills.

    Attributes:
        name: Name of the work, a word or two; part of the fingerprint.
        output: The output, opened for writing. The log of finished blocks is stored beside it.
        inputs: Addresses of the volumes read.
        function: Top-level function ``(block, parameters)``; it must write ``block.write_roi`` and nothing else, and
            write the same voxels whenever it is called with the same inputs. With ``write``, it returns the result.
        parameters: JSON-serializable; passed to the function, part of the fingerprint.
        block_shape: Wanted block size (z, y, x) in voxels; rounded up to whole chunks (or shards) of all outputs.
        context: Voxels read around a block on each side (z, y, x).
        roi: The ROI to write, in absolute voxels; None for the whole output.
        further_outputs: Further volumes that the same blocks write; they cover the same voxels, chunks may differ.
        set_up: Top-level function ``(parameters) -> anything``, called once in each worker before its first block; its
            result is ``block.prepared``. For objects that are costly to make and serve many blocks: a loaded network.
        read: Top-level function ``(block, parameters) -> anything``, called in a thread while earlier blocks are
            computed; its result is ``block.data``.
        write: Top-level function ``(block, result)``, called in another thread with the result of ``function`` while
            later blocks are computed; the voxels must be written when it returns.
        threads: Whether ``read`` and ``write`` run in threads of their own; otherwise all steps run in sequence.
        model_hash: SHA-256 of the checkpoint that the voxels depend on, part of the fingerprint.
        retries: Number of retries of a block after an error.
        time_limit: Seconds that one block may take; a worker process that takes longer is replaced.

    Example:
        Invert a volume of 8 blocks. For several workers the function must be importable in other processes.

        >>> from incasem_like.blockwise import run_blockwise
        >>> from incasem_like.volumes import create_volume, open_volume
        >>> def invert(block, parameters):
        ...     block.output.write(255 - block.inputs[0].read(block.write_roi), block.write_roi)
        >>> def make(dataset):
        ...     return create_volume("a.zarr", dataset, shape=(64, 64, 64), dtype="uint8", voxel_size=(8, 8, 8),
        ...                          chunk_shape=(32, 32, 32))
        >>> make("raw").mark_complete()
        >>> task = BlockTask("invert", make("inverted"), ("a.zarr/raw",), invert, block_shape=(32, 32, 32))
        >>> len(task)
        8
        >>> summary = run_blockwise(task, num_workers=1)
        >>> int(open_volume("a.zarr/inverted").read().min())
        255
    """

    name: str
    output: Volume
    inputs: tuple[str, ...]
    function: Callable[[Block, Mapping[str, Any]], Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    block_shape: tuple[int, ...] = (128, 128, 128)
    context: tuple[int, ...] = (0, 0, 0)
    roi: Roi | None = None
    further_outputs: tuple[Volume, ...] = ()
    set_up: Callable[[Mapping[str, Any]], Any] | None = None
    read: Callable[[Block, Mapping[str, Any]], Any] | None = None
    write: Callable[[Block, Any], None] | None = None
    threads: bool = True
    model_hash: str | None = None
    retries: int = 2
    time_limit: float = HOUR

    @cached_property
    def grid(self) -> BlockGrid:  # type: ignore[override]
        """The blocks.

        Raises:
            InputError, DataError: Block sizes or ``roi`` do not fit the outputs.
        """
        return block_grid(self.outputs, self.block_shape, self.context, self.roi)

    @property
    def folder(self) -> Path:
        """Folder of the first output, which holds the log.

        Raises:
            InputError: It is remote.
        """
        refuse_remote(self.output.address)
        return Path(str(self.output.address))

    @property
    def complete(self) -> bool:
        """Whether the output is complete."""
        return self.output.complete

    @property
    def outputs(self) -> tuple[Volume, ...]:  # type: ignore[override]
        """All volumes written."""
        return (self.output, *self.further_outputs)

    def layout(self) -> dict[str, Any]:
        """Describe the outputs and their blocks."""
        return {**_layout(self.output), **self.grid.layout(), "context": list(self.grid.context)}

    def fingerprint(self) -> dict[str, Any]:
        """Describe everything that the outputs' voxels depend on, see ``WorkTask.fingerprint``."""
        fingerprint = super().fingerprint()
        if self.further_outputs:
            fingerprint["further outputs"] = [
                {"dataset": volume.dataset, **_layout(volume)} for volume in self.further_outputs
            ]
        return fingerprint

    def mark_complete(self) -> None:
        """Mark the outputs complete; the first of several is marked last, since the log belongs to it."""
        for volume in reversed(self.outputs):
            if not volume.complete:
                volume.mark_complete()


def _layout(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.shape),
        "dtype": volume.dtype.str,
        "voxel size": None if volume.voxel_size is None else list(volume.voxel_size),
        "offset": list(volume.offset),
    }


def create_or_resume_output(
    place: str,
    dataset: str | None = None,
    *,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    voxel_size: Sequence[float] | None,
    offset: Sequence[float] = (0, 0, 0),
    axes: str = "zyx",
    overwrite: bool = False,
    **options: Any,
) -> Volume:
    """Create an output, or open the one that an earlier call of the same command began or finished.

    Whether that call had the same parameters is checked by ``run_blockwise``.

    Args:
        place: Address of the array, or of its container.
        dataset: Path inside the container when ``place`` is the container.
        shape, dtype, voxel_size, offset, axes: As for ``create_volume``.
        overwrite: Replace an existing output instead.
        **options: Further arguments of ``create_volume``: ``chunk_shape``, ``provenance``, ``attributes`` and so on;
            they apply when the array is created.

    Raises:
        InputError: The existing array has another shape, data type, voxel size, offset or axes; or another process is
            writing the output to be replaced; or the address is remote, or an input named in ``provenance``.
    """
    address = parse_address(place, dataset)
    refuse_remote(address)
    inputs = (options.get("provenance") or {}).get("inputs", ())
    check_outputs([address], [item["address"] for item in inputs], "choose another output")
    wanted: dict[str, Any] = {
        "shape": tuple(shape),
        "axes": axes,
        "dtype": np.dtype(dtype),
        "voxel_size": None if voxel_size is None else tuple(float(size) for size in voxel_size),
        "offset": tuple(float(position) for position in offset)[-len(axes.lstrip("c")) :],
    }
    if overwrite or not dataset_exists(place, dataset):
        with held(str(address)):
            return create_volume(place, dataset, overwrite=overwrite, **wanted, **options)
    output = open_volume(place, dataset, writable=True, allow_incomplete=True)
    for name, value in wanted.items():
        found = getattr(output, name)
        same = same_voxel_size(found, value) if name == "voxel_size" and found and value else found == value
        if not same:
            said = name.replace("_", " ")
            there, needed = (list(one) if isinstance(one, tuple) else one for one in (found, value))
            raise InputError(
                f"{output.address} exists already with {said} {there}, but {said} {needed} is needed: add --overwrite "
                "to replace it, or choose another name."
            )
    return output
