"""Workers as Slurm jobs, one each, by ``sbatch --wait``."""

from __future__ import annotations

from incasem_like.blockwise.launchers.base import Started
from incasem_like.blockwise.launchers.command import CommandLauncher

MEGABYTE = 2**20


class SlurmLauncher(CommandLauncher):
    """Submits jobs; ``scancel`` by name ends them, since the name is unique and known before the id is."""

    program = "sbatch"

    def start(self, name: str, index: int) -> Started:
        """Submit a job; see ``Launcher.start``."""
        job = f"{self.place.folder.name}-{name}"
        words = ["sbatch", "--wait", "--job-name", job, "--output", str(self.place.folder / f"{name}.out")]
        words += ["--open-mode", "append", "--ntasks", "1", "--cpus-per-task", str(self.group.cores)]
        if self.group.memory is not None:
            words += ["--mem", f"{-(-self.group.memory // MEGABYTE)}M"]
        if self.group.queue:
            words += ["--partition", self.group.queue]
        if self.group.gpus:
            words += ["--gres", f"gpu:{self.group.gpus}"]
        if self.group.time is not None:
            words += ["--time", str(max(1, round(self.group.time / 60)))]
        words += [*self.group.options, str(self.write_script()), name]
        started = self.run(name, words, cancel=["scancel", "--name", job])
        started.output = self.place.folder / f"{name}.out"
        return started
