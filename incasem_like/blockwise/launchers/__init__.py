"""Ways to start a worker process: on this machine, by a batch queue, by any command."""

from collections.abc import Callable
from pathlib import Path

from incasem_like.blockwise.launchers.base import CommandLauncher, Launcher, LocalLauncher, Started, WorkerGroup
from incasem_like.blockwise.launchers.queues import QUEUES, QueueLauncher

LAUNCHERS: dict[str, Callable[[WorkerGroup, Path], Launcher]] = {
    "local": LocalLauncher,
    **dict.fromkeys(QUEUES, QueueLauncher),
    "command": CommandLauncher,
}

__all__ = ["LAUNCHERS", "QUEUES", "Launcher", "Started", "WorkerGroup"]
