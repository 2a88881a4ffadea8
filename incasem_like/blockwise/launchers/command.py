"""Workers started by any command: ``ssh node7 {command}``, ``srun -p gpu {command}``, ``docker exec box {command}``."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from incasem_like.blockwise.launchers.base import Launcher, Started, deaf_to_interrupts
from incasem_like.errors import InputError


class CommandLauncher(Launcher):
    """Runs a template in a shell; the command must last as long as the worker."""

    def start(self, name: str, index: int) -> Started:
        """Run the command; see ``Launcher.start``."""
        command = shlex.join(["bash", str(self.write_script()), name])
        template = self.group.command or "{command}"
        return self.run(name, ["/bin/sh", "-c", template.replace("{command}", command).replace("{name}", name)])

    def run(self, name: str, words: Sequence[str], cancel: Sequence[str] | None = None) -> Started:
        """Run a program that lasts as long as the worker, in a process group of its own.

        Raises:
            InputError: The program is not there.
        """
        log = self.log(name)
        with log.open("ab") as said, deaf_to_interrupts():
            try:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
                )
            except OSError as error:
                raise InputError(
                    f"{words[0]} cannot be started ({error.strerror}), which launches workers by "
                    f"{self.group.launcher}: run this where it is installed, or choose another launcher."
                ) from error
        return Started(name, process, log, cancel=cancel)
