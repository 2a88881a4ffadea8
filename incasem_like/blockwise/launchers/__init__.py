"""Ways to start a worker process: on this machine, by a batch queue, by any command."""

from collections.abc import Callable

from incasem_like.blockwise.launchers.base import Launcher, Place, Started, WorkerGroup
from incasem_like.blockwise.launchers.local import CommandLauncher, LocalLauncher
from incasem_like.blockwise.launchers.queues import QUEUES, QueueLauncher

LAUNCHERS: dict[str, Callable[[WorkerGroup, Place, str], Launcher]] = {
    "local": LocalLauncher,
    **dict.fromkeys(QUEUES, QueueLauncher),
    "command": CommandLauncher,
}

__all__ = ["LAUNCHERS", "QUEUES", "Launcher", "Place", "Started", "WorkerGroup"]
