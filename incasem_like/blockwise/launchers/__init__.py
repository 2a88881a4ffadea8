"""Ways to start a worker process: on this machine, by Slurm, by LSF, by any command; one file each."""

from incasem_like.blockwise.launchers.base import Launcher, Place, Started, WorkerGroup
from incasem_like.blockwise.launchers.command import CommandLauncher
from incasem_like.blockwise.launchers.local import LocalLauncher
from incasem_like.blockwise.launchers.lsf import LsfLauncher
from incasem_like.blockwise.launchers.slurm import SlurmLauncher

LAUNCHERS: dict[str, type[Launcher]] = {
    "local": LocalLauncher,
    "slurm": SlurmLauncher,
    "lsf": LsfLauncher,
    "command": CommandLauncher,
}

__all__ = ["LAUNCHERS", "Launcher", "Place", "Started", "WorkerGroup"]
