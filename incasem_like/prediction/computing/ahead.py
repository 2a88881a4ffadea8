"""Doing things in other threads before their turn comes, a bounded number of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Yield ``function(item)`` for every item, in order; up to ``count`` results are made ahead, none if it is 0."""
    if count == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="ahead") as threads:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Behind:
    """Does one thing at a time in another thread, while the next is being prepared.

    Args:
        threaded: Otherwise everything is done at once where it is asked for.
    """

    def __init__(self, threaded: bool) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="behind") if threaded else None
        self._last: Future[None] | None = None

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        if error is None:
            self._finish_last()

    def do(self, action: Callable[[], None]) -> None:
        """Begin an action when the one before is done; an error of the one before is raised here."""
        self._finish_last()
        if self._thread is None:
            action()
        else:
            self._last = self._thread.submit(action)

    def _finish_last(self) -> None:
        if self._last is not None:
            self._last.result()
            self._last = None
