"""Running the stages of the demo: each is a script in a process of its own, timed and logged."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from incasem_like.errors import IncasemError
from incasem_like.terminal import duration, shell_command


@dataclass(frozen=True)
class StageRun:
    """A command that was run.

    Attributes:
        stage: Which part of the job it belongs to (``import``, ``train``).
        command: The command line as typed at the repository's root.
        seconds: Wall time.
    """

    stage: str
    command: str
    seconds: float


@dataclass
class StageRunner:
    """Runs scripts of the repository one after another and records them.

    Attributes:
        repository: The repository's root: scripts are named relative to it and run from it.
        log: File that receives the output of all stages, in addition to the terminal.
    """

    repository: Path
    log: Path
    done: list[StageRun] = field(default_factory=list)

    def run(self, stage: str, script: str, *arguments: object) -> None:
        """Run one script and wait for it.

        Raises:
            IncasemError: The script exited with an error.
            KeyboardInterrupt: The script was interrupted.
        """
        words = [str(self.shown(argument)) for argument in arguments]
        command = shell_command("python", f"scripts/{script}", *words)
        print(f"\n[{stage}] {command}", flush=True)
        started = time.monotonic()
        status = self._run([sys.executable, f"scripts/{script}", *words])
        seconds = time.monotonic() - started
        if status == 130:
            raise KeyboardInterrupt
        if status != 0:
            raise IncasemError(f"The demo stopped: {stage} exited with status {status}; its output is in {self.log}.")
        self.done.append(StageRun(stage, command, round(seconds, 2)))
        print(f"[{stage}] {duration(seconds)}", flush=True)

    def seconds_by_stage(self) -> dict[str, float]:
        """Return the wall time of each stage in seconds, in the order they ran."""
        seconds: dict[str, float] = {}
        for run in self.done:
            seconds[run.stage] = round(seconds.get(run.stage, 0.0) + run.seconds, 2)
        return seconds

    def shown(self, argument: object) -> object:
        """Return paths inside the repository relative to it, so that the printed command works for any clone."""
        if isinstance(argument, Path) and argument.is_relative_to(self.repository):
            return argument.relative_to(self.repository)
        return argument

    def _run(self, command: Sequence[str]) -> int:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(self.log, "ab") as log,
            subprocess.Popen(
                command, cwd=self.repository, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            ) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    log.write(line)
                    sys.stdout.write(line.decode(errors="replace"))
                    sys.stdout.flush()
            except KeyboardInterrupt:
                process.wait()
                raise
            return process.wait()
