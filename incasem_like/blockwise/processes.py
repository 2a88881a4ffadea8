"""Processes that work beside this one: deaf to ctrl-C, which this process answers for them, and ended with it."""

from __future__ import annotations

import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any

PRELOADED = ["incasem_like.blockwise.worker"]


def fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start the server that forks processes, once, and give the context to start them with.

    A server that still imports would die of the ctrl-C that reaches the whole process group, and a process that has
    just been forked would print a traceback: both inherit a signal mask that keeps SIGINT away.

    Args:
        preload: Modules that the server loads before it forks, so that each process starts in a moment. TensorStore
            doesn't survive a fork, so none may open a volume.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    resource_tracker.ensure_running()  # its start lets SIGINT through again, and is part of the server's
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def process_pool(
    count: int,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes for the time of a ``with``; an error or ctrl-C inside ends them at once.

    Args:
        count: Processes.
        initializer: Called in each process before its first work.
        initargs: Its arguments.
    """
    earlier = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        count, mp_context=fork_server(PRELOADED), initializer=_begin, initargs=(initializer, initargs)
    )
    try:
        yield pool
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - earlier:
            child.terminate()


def _begin(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Wait for the parent's end and follow it: a process of a killed parent would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
