"""Useful number of processes, and a process pool for work whose next step depends on earlier results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from incasem_like.processes import process_pool
from incasem_like.terminal import Progress

Result = TypeVar("Result")
VOXELS_PER_WORKER = 2**24  # a process takes about a second to start; in that time one processes some ten million voxels


def useful_workers(num_workers: int, voxels: int) -> int:
    """Return the useful number of processes for a volume of so many voxels, at most ``num_workers``."""
    return max(1, min(num_workers, voxels // VOXELS_PER_WORKER))


class Workers:
    """Processes that call functions; with a count of 1, the current process.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        self._stack = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.count > 1:
            self._pool = self._stack.enter_context(process_pool(self.count))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def map(self, function: Callable[..., Result], description: str | None, *work: Sequence[Any]) -> Iterator[Result]:
        """Call a top-level function for all work and yield results in order; with a description progress is shown."""
        results = self._pool.map(function, *work) if self._pool is not None else map(function, *work)
        if description is None:
            yield from results
            return
        with Progress(description, len(work[0]), "blocks") as progress:
            for result in results:
                yield result
                progress.advance()
