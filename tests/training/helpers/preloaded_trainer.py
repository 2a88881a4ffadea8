"""Trains in forked children of a process that has imported everything already, and kills them at chosen moments.

Started as a script. Each line of its standard input is a training, as JSON:

- ``argv``: what stands behind ``train.py`` on the command line; ``script``: that file; ``cwd``; ``output``: a file for
  what it prints.
- ``kill``: None, or the moment at which the training kills itself with SIGKILL: ``{"calls": N}``, at the N-th function
  call after the training was put together, wherever that is; or ``{"event": NAME, "count": N}``, at the N-th time that
  something happens to a file of the run, see ``Killer``.

The answer is a line with the exit status of the child, negative for a signal.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVENTS = {
    "model half written": ("fsync", ".model_checkpoint_"),
    "model there, state not": ("replace", "model_checkpoint_"),
    "state half written": ("fsync", ".training_state_"),
    "both there, not on record": ("replace", "training_state_"),
    "record half written": ("fsync", ".info.json"),
    "record just written": ("replace", "info.json"),
    "entry half written": ("fsync", ".run.json"),
    "half a line in the log": ("fsync", "metrics.jsonl"),
    "superfluous, off the record, not deleted": ("before unlink", "training_state_"),
    "superfluous, half deleted": ("unlink", "training_state_"),
}


class Killer:
    """Kills this process in the middle of what it does to its files.

    ``os.fsync``, ``os.replace`` and ``os.unlink`` are where the run's files come into being and go. Every file of a
    checkpoint is synced while it has a temporary name, so to cut it there in half leaves what a write leaves that was
    broken off.
    """

    def __init__(self, event: str, count: int) -> None:
        (self.operation, self.name), self.left = EVENTS[event], count

    def install(self) -> None:
        fsync, replace, unlink = os.fsync, os.replace, os.unlink

        def killing_fsync(file: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{file}"))
            if self._is_time("fsync", path):
                size = os.fstat(file).st_size
                os.ftruncate(file, size - 5 if path.suffix == ".jsonl" else size // 2)
                die()
            fsync(file)

        def killing_replace(source: Any, target: Any, **options: Any) -> None:
            replace(source, target, **options)
            if self._is_time("replace", Path(target)):
                die()

        def killing_unlink(path: Any, **options: Any) -> None:
            if self._is_time("before unlink", Path(path)):
                die()
            unlink(path, **options)
            if self._is_time("unlink", Path(path)):
                die()

        os.fsync, os.replace, os.unlink = killing_fsync, killing_replace, killing_unlink

    def _is_time(self, operation: str, path: Path) -> bool:
        if operation == self.operation and path.name.startswith(self.name):
            self.left -= 1
            return self.left == 0
        return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after_calls(calls: int) -> None:
    """Count the function calls of the main thread from the making of the trainer on, and die at the given one."""
    from incasem_like.training import assembly

    build: Callable[..., Any] = assembly.build_trainer
    left = calls

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            die()

    def building(*arguments: Any) -> Any:
        sys.setprofile(count)
        return build(*arguments)

    assembly.build_trainer = building


def train(job: dict[str, Any]) -> None:
    """Be the training; does not return."""
    os.setsid()
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.chdir(job["cwd"])
    sys.argv = [job["script"], *job["argv"]]
    kill = job["kill"] or {}
    if "calls" in kill:
        kill_after_calls(kill["calls"])
    elif kill:
        Killer(**kill).install()
    from incasem_like.commands.train import main

    status = 1
    try:
        main(Path(job["script"]))
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve() -> None:
    import warnings

    warnings.simplefilter("ignore")
    import lightning_fabric  # noqa: F401
    import sacred  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import incasem_like.prediction.computing.tiles
    import incasem_like.samples.making
    import incasem_like.tracking.recording.writer
    import incasem_like.training.assembly
    import incasem_like.training.trainer
    import incasem_like.training.validation  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            train(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
