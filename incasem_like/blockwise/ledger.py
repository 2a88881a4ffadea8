"""Blockwise work whose result is no volume: counts of a volume, files of sections. It stands on a ledger.

A ledger is an array that has the shape, place and chunks of what is worked through, and holds no voxel. Beside it lies
the log of finished blocks, as beside any output, so that all that is said of blocks holds: they are resumed, retried,
named in errors, listed as a job. What a block's function returns is kept with it until all blocks are done.
"""

from __future__ import annotations

import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import incasem_like
from incasem_like.blockwise.done_log import LOG_NAME
from incasem_like.blockwise.grid import block_grid
from incasem_like.blockwise.job import DAYS_KEPT, private_folder
from incasem_like.blockwise.output import create_or_resume_output
from incasem_like.blockwise.runner import run_blockwise
from incasem_like.blockwise.summary import BlockSummary
from incasem_like.blockwise.task import Block, BlockTask
from incasem_like.errors import IncasemError
from incasem_like.volumes import Roi, Volume, open_volume
from incasem_like.volumes.provenance import digest

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Array = npt.NDArray[Any]
Function = Callable[[Block, Mapping[str, Any]], Array | None]

RESULTS = ".results"


@dataclass(frozen=True)
class Pieces:
    """Pieces of work that are no parts of one volume, each a block by itself: volumes to generate, for instance.

    Attributes:
        names: What each is called in errors; a block's number is its place here.
        unit: What progress counts them as.
    """

    names: tuple[str, ...]
    unit: str

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """One voxel stands for one piece."""
        return len(self.names), 1, 1

    voxel_size = (1.0, 1.0, 1.0)
    offset = (0.0, 0.0, 0.0)
    chunk_shape = (1, 1, 1)

    @property
    def roi(self) -> Roi:
        """All of them."""
        return Roi((0, 0, 0), self.spatial_shape)


@dataclass(frozen=True)
class LedgerTask:
    """A function over the blocks of a volume that writes no volume.

    Attributes:
        name: What is done, in a word or two.
        like: The volume whose shape, place and chunks the blocks have; it need not be among the inputs. Or the pieces
            of work that blocks are, of which ``block_shape`` has to be ``(1, 1, 1)``.
        inputs: Addresses of the volumes read.
        function: Top-level function ``(block, parameters)``. It returns a small array, which is kept until all blocks
            are done, or None where it leaves files behind by itself. ``block.output`` is the ledger.
        parameters: JSON-able; handed to the function, part of the fingerprint.
        block_shape: Wanted block size (z, y, x) in voxels; rounded up to whole chunks of ``like``.
        roi: What to work through, in absolute voxels; None for all.
        place: Folder of the ledger, ending in ``.zarr``. None: among the records of jobs, under a name that follows
            from all of the above and from what the inputs hold, so that the same task finds its own, and no other does.
    """

    name: str
    like: Volume | Pieces
    inputs: tuple[str, ...]
    function: Function
    parameters: Mapping[str, Any] = field(default_factory=dict)
    block_shape: tuple[int, ...] = (128, 128, 128)
    roi: Roi | None = None
    place: Path | None = None

    @cached_property
    def folder(self) -> Path:
        """Where the ledger is."""
        if self.place is not None:
            return self.place
        roi = self.like.roi if self.roi is None else self.roi
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        about = [
            self.name, function, dict(self.parameters), list(self.block_shape), list(roi.begin), list(roi.shape),
            [open_volume(address).content_hash for address in self.inputs], incasem_like.__version__,
        ]  # fmt: skip
        of = [] if isinstance(self.like, Pieces) else [Path(self.like.container).stem, Path(self.like.dataset).name]
        told = "_".join([*self.name.split(), *filter(None, of)])  # for who lists jobs; the digest tells tasks apart
        return private_folder("ledgers") / f"{told}-{digest(about)[:10]}.zarr"

    def run(
        self,
        *,
        num_workers: int = 1,
        workers: Workers | None = None,
        overwrite: bool = False,
        description: str | None = None,
    ) -> BlockSummary:
        """Run the function over all blocks that are not done yet; arguments and errors are those of ``run_blockwise``.

        Args:
            num_workers, workers, description: See there.
            overwrite: Begin again, whatever an earlier call has done.
        """
        if self.place is None:
            _forget_old(self.folder.parent)
        ledger = create_or_resume_output(
            str(self.folder),
            shape=self.like.spatial_shape,
            dtype=np.uint8,
            voxel_size=self.like.voxel_size,
            offset=self.like.offset,
            chunk_shape=self.like.chunk_shape[-len(self.like.spatial_shape) :],
            overwrite=overwrite,
            format="zarr2",
        )
        named: dict[str, Any] = (
            {"names": self.like.names, "unit": self.like.unit} if isinstance(self.like, Pieces) else {}
        )
        task = BlockTask(
            self.name, ledger, self.inputs, _Kept(self.function), self.parameters, self.block_shape,
            (0,) * len(self.block_shape), self.roi, **named,
        )  # fmt: skip
        return run_blockwise(task, num_workers=num_workers, workers=workers, description=description)

    def results(self) -> Iterator[Array]:
        """Yield what the blocks returned, by number, once ``run`` has returned.

        Raises:
            IncasemError: Somebody has removed some of it.
        """
        ledger = open_volume(str(self.folder))
        grid = block_grid(ledger, self.block_shape, (0,) * len(self.block_shape), self.roi)
        for number in range(len(grid)):
            path = self.folder / RESULTS / f"{number}.npy"
            try:
                yield np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise IncasemError(f"{path} is gone or damaged: remove {self.folder} and begin again.") from error

    def forget(self) -> None:
        """Remove the ledger and what was kept; a further call would begin again."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _Kept:
    """A function of blocks whose result is written beside the ledger; it goes by the function's name."""

    def __init__(self, function: Function) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, block: Block, parameters: Mapping[str, Any]) -> None:
        result = self.function(block, parameters)
        if result is not None:
            _keep(Path(str(block.output.address)) / RESULTS / f"{block.number}.npy", result)


def _keep(path: Path, result: Array) -> None:
    """Write an array whole or not at all, on the disk before this returns."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, result, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        error.filename = error.filename or str(path.parent)
        raise


def _forget_old(folder: Path) -> None:
    """Remove ledgers of calls that were stopped long ago and never taken up again."""
    for ledger in folder.glob("*.zarr"):
        log = ledger / LOG_NAME
        if log.is_file() and time.time() - log.stat().st_mtime > DAYS_KEPT * 24 * 3600:
            shutil.rmtree(ledger, ignore_errors=True)
