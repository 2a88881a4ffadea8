"""Workers started by this machine: as child processes, or by any command that reaches another one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from incasem_like.blockwise.launchers.base import THREAD_VARIABLES, Launcher, Started
from incasem_like.errors import InputError


class LocalLauncher(Launcher):
    """Starts child processes; with GPUs, each gets its own."""

    local = True

    @property
    def count(self) -> int:
        """Number of workers of the group: as requested, else one per GPU, else one.

        Raises:
            InputError: More GPUs are requested than exist.
        """
        if not self.group.gpus:
            return self.group.count or 1
        devices = visible_gpus()
        count = self.group.count or len(devices) // self.group.gpus
        if not count or count * self.group.gpus > len(devices):
            raise InputError(
                f"{max(count, 1)} workers with {self.group.gpus} GPUs each are asked for, but this machine shows "
                f"{len(devices)}: reduce count or gpus in the workers file."
            )
        return count

    def start(self, name: str, index: int) -> Started:
        """Start a child process; see ``Launcher.start``."""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.group.cores))}
        if self.group.gpus:
            own = visible_gpus()[index * self.group.gpus :][: self.group.gpus]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        words = ["bash", str(self.write_script(name))] if self.group.set_up else self.words(name)
        return self.run(name, words, environment=environment)


class CommandLauncher(Launcher):
    """Runs a template in a shell: ``ssh node7 {command}``, ``srun {command}``, ``docker exec box {command}``."""

    def start(self, name: str, index: int) -> Started:
        """Run the command, which must last as long as the worker; see ``Launcher.start``."""
        command = shlex.join(["bash", str(self.write_script(name))])
        template = self.group.command or "{command}"
        return self.run(name, ["/bin/sh", "-c", template.replace("{command}", command).replace("{name}", name)])


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, without loading torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(drivers.iterdir())))] if drivers.is_dir() else []
