"""How far the transfer of a large file has come."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from incasem_like.terminal import Progress

BYTES_WORTH_A_PROGRESS_BAR = 16 << 20


@contextlib.contextmanager
def transfer_progress(description: str, size: int) -> Iterator[Callable[[int], None]]:
    """Give a function that takes numbers of bytes as they are done; a file that is there at once shows nothing.

    Args:
        description: What is shown: ``Fetching model_checkpoint_40``.
        size: Length of the file in bytes.
    """
    if size < BYTES_WORTH_A_PROGRESS_BAR:
        yield lambda count: None
        return
    with Progress(description, size, "B") as progress:
        yield progress.advance
