"""Workers on this machine: child processes that inherit their connection, so that nothing listens for them."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from incasem_like.blockwise.channel import TOKEN_VARIABLE
from incasem_like.blockwise.launchers.base import THREAD_VARIABLES, Launcher, Started, deaf_to_interrupts
from incasem_like.errors import InputError


class LocalLauncher(Launcher):
    """Starts child processes; with GPUs, each gets its own."""

    calls_back = False

    @property
    def count(self) -> int:
        """Workers of the group: as asked for, else one per GPU, else one.

        Raises:
            InputError: More GPUs are asked for than there are.
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
        ours, theirs = socket.socketpair()
        environment = {**os.environ, TOKEN_VARIABLE: self.place.token.hex()}
        environment.update(dict.fromkeys(THREAD_VARIABLES, str(self.group.cores)))
        if self.group.gpus:
            own = visible_gpus()[index * self.group.gpus :][: self.group.gpus]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        where = ("--fd", str(theirs.fileno()))
        words = [*self.words(*where), "--name", name]
        if self.group.set_up:
            words = ["bash", "-c", self.script(*where), "bash", name]
        log = self.log(name)
        with theirs, log.open("ab") as said, deaf_to_interrupts():
            try:
                process = subprocess.Popen(
                    words, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=said,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip
            except OSError as error:
                ours.close()
                raise InputError(f"{words[0]} cannot be started ({error.strerror}): check the workers file.") from error
        return Started(name, process, log, link=ours)


def visible_gpus() -> list[str]:
    """Name the GPUs that this process may use, without loading torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(drivers.iterdir())))] if drivers.is_dir() else []
