"""Workers as LSF jobs, one each, by ``bsub -K``."""

from __future__ import annotations

from incasem_like.blockwise.launchers.base import Started
from incasem_like.blockwise.launchers.command import CommandLauncher

MEGABYTE = 2**20


class LsfLauncher(CommandLauncher):
    """Submits jobs; ``bkill`` by name ends them, since the name is unique and known before the id is."""

    program = "bsub"

    def start(self, name: str, index: int) -> Started:
        """Submit a job; see ``Launcher.start``."""
        job = f"{self.place.folder.name}-{name}"
        output = self.place.folder / f"{name}.out"
        words = ["bsub", "-K", "-J", job, "-o", str(output), "-n", str(self.group.cores), "-R", "span[hosts=1]"]
        if self.group.memory is not None:
            memory = f"{-(-self.group.memory // MEGABYTE)}MB"
            words += ["-M", memory, "-R", f"rusage[mem={memory}]"]
        if self.group.queue:
            words += ["-q", self.group.queue]
        if self.group.gpus:
            words += ["-gpu", f"num={self.group.gpus}"]
        if self.group.time is not None:
            words += ["-W", str(max(1, round(self.group.time / 60)))]
        words += [*self.group.options, "bash", str(self.write_script()), name]
        started = self.run(name, words, cancel=["bkill", "-J", job])
        started.output = output
        return started
