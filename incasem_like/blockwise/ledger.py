"""Tasks whose result is not a volume: counts, files, tables. A folder, the ledger, records the finished items.

It contains the log of finished items, as every output does, so that items behave like blocks: they are resumed,
retried, named in errors and listed as a job. The results of finished items are kept there until all are done.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import incasem_like
from incasem_like.blockwise.call import BlockSummary
from incasem_like.blockwise.done_log import LOG_NAME, held
from incasem_like.blockwise.grid import BlockGrid, chunk_grid
from incasem_like.blockwise.job import private_folder, use_folder
from incasem_like.blockwise.runner import run_blockwise
from incasem_like.blockwise.task import HOUR, WorkItem, WorkTask
from incasem_like.disk import write_whole
from incasem_like.errors import IncasemError
from incasem_like.volumes import Roi, Volume
from incasem_like.volumes.chunk_files import digest

Array = npt.NDArray[Any]

RESULTS = ".results"


@dataclass(frozen=True)
class LedgerTask(WorkTask):
    """A function applied to a list of items; its results are small arrays, or files that it writes itself.

    Attributes:
        name: Name of the work, a word or two.
        items: A volume, whose blocks are the items; it need not be among the inputs. Or the names
            of the items, used in errors; an item's number is its index in the list.
        inputs: Addresses of the volumes read.
        function: Top-level function ``(block, parameters)``, of items that are not blocks ``(item, parameters)``. It
            returns a small array, which is kept until all are done, or None if it writes files itself.
        parameters: JSON-serializable; passed to the function, part of the fingerprint.
        block_shape: Wanted block size (z, y, x) in voxels; rounded up to whole chunks of the volume.
        roi: Part of the volume to work through, in absolute voxels; None for all.
        place: Folder of the ledger. None: among the records of jobs, under a name derived from all of the above
            and from the content of the inputs, so that only the same task finds it again.
        unit: Unit that progress is counted in.
        set_up, time_limit: As of a ``BlockTask``.
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
    time_limit: float = HOUR

    threads = False  # results are small

    def write(self, item: WorkItem, result: Array | None) -> None:
        """Store the result of an item."""
        if result is None:
            return
        path = item.folder / RESULTS / f"{item.number}.npy"
        path.parent.mkdir(exist_ok=True)
        try:
            write_whole(path, lambda file: np.save(file, result, allow_pickle=False))
        except OSError as error:
            error.filename = error.filename or str(path.parent)
            raise

    @cached_property
    def grid(self) -> BlockGrid | None:  # type: ignore[override]
        """The blocks of the volume; None where the items are a list."""
        if not isinstance(self.items, Volume):
            return None
        return chunk_grid(
            self.items, [self.items.chunk_shape], self.block_shape, (0,) * len(self.block_shape), self.roi
        )

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the items where they are a list."""
        return () if isinstance(self.items, Volume) else self.items

    @cached_property
    def folder(self) -> Path:
        """Folder of the ledger."""
        if self.place is not None:
            return self.place
        of = [Path(self.items.container).stem, Path(self.items.dataset).name] if isinstance(self.items, Volume) else []
        words = "_".join([*self.name.split(), *filter(None, of)])  # for listings of jobs; the digest is what counts
        fingerprint = self.fingerprint()
        inputs = [about["content"] for about in fingerprint.pop("inputs")]
        return private_folder("ledgers") / f"{words}-{digest([fingerprint, inputs, incasem_like.__version__])[:10]}"

    def run(self, *, overwrite: bool = False, **options: Any) -> BlockSummary:
        """Run the function over all items that are not done yet; options and errors are those of ``run_blockwise``.

        ``overwrite`` starts over, ignoring the results of earlier calls.
        """
        if self.place is None:
            use_folder(self.folder, LOG_NAME)
        if overwrite and self.folder.exists():
            with held(self.folder):
                shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        return run_blockwise(self, **options)

    def results(self) -> Iterator[Array]:
        """Yield the results of the items, by number, once ``run`` has returned; errors as for ``result``."""
        return (self.result(number) for number in range(len(self)))

    def result(self, number: int) -> Array:
        """Return the result of one item, once ``run`` has returned.

        Raises:
            IncasemError: It was removed.
        """
        path = self.folder / RESULTS / f"{number}.npy"
        try:
            return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]
        except (OSError, ValueError) as error:
            raise IncasemError(f"{path} is missing or damaged: remove {self.folder} and begin again.") from error

    def forget(self) -> None:
        """Remove the ledger and the stored results; a further call would start over."""
        shutil.rmtree(self.folder, ignore_errors=True)
