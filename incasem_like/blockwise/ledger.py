"""Work whose result is no volume: counts of a volume, files, tables. A folder, the ledger, holds what is done of it.

In it lies the log of finished items, as beside any output, so that all that is said of blocks holds: items are resumed,
retried, named in errors, listed as a job. What the function returns of an item is kept there until all are done.
"""

from __future__ import annotations

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
from incasem_like.blockwise.done_log import LOG_NAME, held
from incasem_like.blockwise.grid import BlockGrid, blocks_of
from incasem_like.blockwise.job import DAYS_KEPT, private_folder
from incasem_like.blockwise.runner import run_blockwise
from incasem_like.blockwise.summary import BlockSummary
from incasem_like.blockwise.task import Block, WorkItem, WorkTask
from incasem_like.errors import IncasemError
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.provenance import digest

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Array = npt.NDArray[Any]

RESULTS = ".results"


@dataclass(frozen=True)
class LedgerTask(WorkTask):
    """A function over a list of items, whose results are small arrays, or files that it leaves behind.

    Attributes:
        name: What is done, in a word or two.
        items: A volume, whose blocks are the items; it need not be among the inputs. Or what each item is called in
            errors; its number is its place in the list.
        inputs: Addresses of the volumes read.
        function: Top-level function ``(block, parameters)``, of items that are not blocks ``(item, parameters)``. It
            returns a small array, which is kept until all are done, or None where it leaves files behind by itself.
        parameters: JSON-able; handed to the function, part of the fingerprint.
        block_shape: Wanted block size (z, y, x) in voxels; rounded up to whole chunks of the volume.
        roi: What of the volume to work through, in absolute voxels; None for all.
        place: Folder of the ledger. None: among the records of jobs, under a name that follows from all of the above
            and from what the inputs hold, so that the same task finds its own, and no other does.
        unit: What progress counts.
        set_up: As of a ``BlockTask``.
    """

    name: str
    items: Volume | tuple[str, ...]
    inputs: tuple[str, ...]
    function: Callable[[Any, Mapping[str, Any]], Array | None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    block_shape: tuple[int, ...] = (128, 128, 128)
    roi: Roi | None = None
    place: Path | None = None
    unit: str = "voxels"
    set_up: Callable[[Mapping[str, Any]], Any] | None = None

    threads = False  # results are small

    def write(self, item: WorkItem, result: Array | None) -> None:
        """Keep the result of an item."""
        if result is not None:
            _write_whole(item.folder / RESULTS / f"{item.number}.npy", result)

    @cached_property
    def grid(self) -> BlockGrid | None:  # type: ignore[override]
        """The blocks of the volume; None where the items are a list."""
        return blocks_of(self.items, self.block_shape, self.roi) if isinstance(self.items, Volume) else None

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items if self.grid is None else self.grid)  # type: ignore[arg-type]

    def name_of(self, number: int) -> str:
        """Return what an item is called in errors."""
        return self.items[number] if isinstance(self.items, tuple) else super().name_of(number)

    def layout(self) -> dict[str, Any]:
        """Describe the list of items."""
        if self.grid is None:
            return {"items": len(self)}
        roi = self.grid.roi
        return {"roi": [list(roi.begin), list(roi.shape)], "block shape": list(self.grid.step)}

    def make_item(self, **known: Any) -> WorkItem:
        """Make an item, see ``WorkTask.make_item``."""
        if self.grid is None:
            return WorkItem(**known)
        roi = self.grid.write_roi(known["number"])
        return Block(write_roi=roi, read_roi=roi, **known)

    @cached_property
    def folder(self) -> Path:
        """Where the ledger is."""
        if self.place is not None:
            return self.place
        of = [Path(self.items.container).stem, Path(self.items.dataset).name] if isinstance(self.items, Volume) else []
        told = "_".join([*self.name.split(), *filter(None, of)])  # for who lists jobs; the digest tells tasks apart
        fingerprint = self.fingerprint()
        inputs = [about["content"] for about in fingerprint.pop("inputs")]
        return private_folder("ledgers") / f"{told}-{digest([fingerprint, inputs, incasem_like.__version__])[:10]}"

    def run(
        self,
        *,
        num_workers: int = 1,
        workers: Workers | None = None,
        overwrite: bool = False,
        description: str | None = None,
    ) -> BlockSummary:
        """Run the function over all items that are not done yet; arguments and errors are those of ``run_blockwise``.

        Args:
            num_workers, workers, description: See there.
            overwrite: Begin again, whatever an earlier call has done.
        """
        if self.place is None:
            _forget_old(self.folder.parent)
        if overwrite and self.folder.exists():
            with held(self.folder):
                shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        return run_blockwise(self, num_workers=num_workers, workers=workers, description=description)

    def results(self) -> Iterator[Array]:
        """Yield what the items returned, by number, once ``run`` has returned.

        Raises:
            IncasemError: Somebody has removed some of it.
        """
        for number in range(len(self)):
            path = self.folder / RESULTS / f"{number}.npy"
            try:
                yield np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise IncasemError(f"{path} is gone or damaged: remove {self.folder} and begin again.") from error

    def forget(self) -> None:
        """Remove the ledger and what was kept; a further call would begin again."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_whole(path: Path, result: Array) -> None:
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
    """Remove ledgers of calls that were stopped long ago and never resumed."""
    for log in folder.glob(f"*/{LOG_NAME}"):
        if time.time() - log.stat().st_mtime > DAYS_KEPT * 24 * 3600:
            shutil.rmtree(log.parent, ignore_errors=True)
