"""The files of a training: folders of a run, and checkpoints on disk."""

from __future__ import annotations

import errno
import itertools
import re
import zipfile
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.errors import CheckpointError, DiskFullError, InputError
from incasem_like.tracking.model.checkpoints import MODELS, folder_name

if TYPE_CHECKING:
    from incasem_like.training.state import TrainingState

NAME = re.compile(r"model_checkpoint_(\d+)")
_EITHER = re.compile(r"(?:model_checkpoint|training_state)_(\d+)")
_UNFINISHED = re.compile(r"\.(?:model_checkpoint|training_state)_\d+\..+")  # left behind by a writer that died


@dataclass(frozen=True)
class CheckpointPolicy:
    """Which checkpoints are kept.

    Kept are: the newest, the best by the run's metric, the last ``keep_last`` of the regular ones, and every one whose
    iteration is a multiple of ``keep_every``. A checkpoint is regular when ``save_every`` divides its iteration; others
    are written at an interruption or as the best at their time, and are removed once neither applies, so an
    interrupted and continued run ends up with the same files as one that never stopped.

    Attributes:
        save_every: Iterations between regular checkpoints.
        keep_last: Number of regular ones kept; at least 1.
        keep_every: Checkpoints at multiples of this are kept for good; 0 for none.
    """

    save_every: int
    keep_last: int = 3
    keep_every: int = 0

    def kept(self, iterations: Iterable[int], best: int | None) -> set[int]:
        """Choose among the checkpoints that exist; ``best`` is the iteration of the best one, if any."""
        existing = sorted(iterations)
        regular = [iteration for iteration in existing if iteration % self.save_every == 0]
        chosen = set(existing[-1:]) | set(regular[-self.keep_last :]) | ({best} & set(existing))
        if self.keep_every:
            chosen |= {iteration for iteration in existing if iteration % self.keep_every == 0}
        return {iteration for iteration in chosen if iteration is not None}


class CheckpointFolder:
    """``models/<id:04d>``: pairs of ``model_checkpoint_<N>`` and ``training_state_<N>``, the state after N updates.

    The state is written last and both appear by renaming, so a pair is complete whenever the state exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def model(self, iteration: int) -> Path:
        """Path of the two-key file of network and optimizer."""
        return self.folder / f"model_checkpoint_{iteration}"

    def state(self, iteration: int) -> Path:
        """Path of the further state that exact resumption needs."""
        return self.folder / f"training_state_{iteration}"

    def iterations(self) -> list[int]:
        """Iterations that have both files, ascending; no file is read."""
        if not self.folder.is_dir():
            return []
        found = (NAME.fullmatch(path.name) for path in self.folder.iterdir())
        numbers = sorted(int(match[1]) for match in found if match)
        return [number for number in numbers if self.state(number).is_file()]

    def write(self, state: TrainingState, save_model: Callable[[Path], None]) -> Path:
        """Write a pair; ``save_model`` writes the two-key file at the path it is given, atomically.

        Raises:
            DiskFullError: No space is left; then neither file of the pair exists.
            OSError: The folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        model = self.model(state.iteration)
        try:
            save_model(model)
            state.save(self.state(state.iteration))
        except OSError as error:
            if state.iteration not in self.iterations():
                model.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                before = self.iterations()
                kept = f"that of iteration {before[-1]} is kept" if before else "there is none before it"
                raise DiskFullError(
                    f"No space is left in {self.folder} for the checkpoint of iteration {state.iteration} ({kept}): "
                    "free some, then continue the training."
                ) from error
            raise
        return model

    def tidy(self, after: int, keep: Collection[int] = ()) -> None:
        """Remove what a training resumed from iteration ``after`` writes again, and leftovers of a killed one.

        These are all checkpoints of later iterations, complete or not, unfinished files, and halves of a pair unless
        their iteration is in ``keep``.
        """
        if not self.folder.is_dir():
            return
        whole = set(self.iterations())
        for path in list(self.folder.iterdir()):
            match = _EITHER.fullmatch(path.name)
            number = int(match[1]) if match else None
            left_over = number is not None and (number > after or (number not in whole and number not in keep))
            if left_over or _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def remove(self, iteration: int) -> Path:
        """Delete a pair, the state first, and return the path that the model file had."""
        self.state(iteration).unlink(missing_ok=True)
        self.model(iteration).unlink(missing_ok=True)
        return self.model(iteration)


def iteration_of(path: Path) -> int:
    """Read the iteration from the name of a checkpoint file.

    Raises:
        CheckpointError: It is not named ``model_checkpoint_<iteration>``.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(
            f"'{path.name}' is not named model_checkpoint_<iteration>, so it cannot be continued: "
            "start a new training from it."
        )
    return int(match[1])


def is_sound(path: Path) -> bool:
    """Return whether a file written by ``torch.save`` (a zip archive) is complete and matches its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # a damaged archive fails in many ways: wrong magic, impossible names, offsets outside the file
        return False


@dataclass(frozen=True)
class RunFolders:
    """The folders of one run.

    Attributes:
        runs: ``directories.runs``.
        name: Name of the run's own folders: its id with four digits; for a run without a record
            ``unobserved_<n>``, since only the run store assigns ids.
    """

    runs: Path
    name: str

    @classmethod
    def of_run(cls, runs: Path, run_id: int) -> RunFolders:
        """Name the folders of a run in the store."""
        return cls(runs, folder_name(run_id))

    @classmethod
    def unobserved(cls, runs: Path) -> RunFolders:
        """Make the folder of a run without a record, under a name that no other process uses."""
        for number in itertools.count(1):
            folders = cls(runs, f"unobserved_{number}")
            try:
                folders.models.mkdir(parents=True)
            except FileExistsError:
                continue
            return folders
        raise AssertionError

    @property
    def run_id(self) -> int:
        """The run's id; 0 for one without a record."""
        return int(self.name) if self.name.isdigit() else 0

    @property
    def models(self) -> Path:
        """Checkpoints."""
        return self.runs / MODELS / self.name

    @property
    def tensorboard(self) -> Path:
        """TensorBoard logs."""
        return self.runs / "tensorboard" / self.name

    @property
    def snapshots(self) -> Path:
        """Folder of blocks and predictions for inspection."""
        return self.runs / "snapshots" / self.name


def check_unused(folders: RunFolders) -> None:
    """Check that the checkpoint folder of a new run is empty.

    Raises:
        InputError: It holds checkpoints.
    """
    if CheckpointFolder(folders.models).iterations():
        raise InputError(
            f"{folders.models} already holds checkpoints, of a run {folders.run_id} that is not in this run store: "
            "choose another --id, set directories.runs to another folder, or move them away."
        )
