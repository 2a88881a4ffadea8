"""The training that a command line requests: a configuration of its own, or one based on a tracked run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import run_id
from incasem_like.commands.tracked import CHECK_COMMIT, check_commit, stores_of
from incasem_like.config import Places, TrainingConfig, load_places, load_training_config, overlay_tracked
from incasem_like.config.loading import Layers, lay_given
from incasem_like.config.network_sections import AutoContextModel
from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig
from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.tracking import RunRecord
from incasem_like.training.continuing import check_same_training

REPEAT, CONTINUE, START = "--repeat_run", "--continue_run", "--start_from"
TRIAL = "--trial_of"  # given by sweep.py


@dataclass(frozen=True)
class TrainingRequest:
    """The requested training.

    Attributes:
        config: The configuration.
        source: Returns where the value of a key was read; None without a tracked run.
        record: The tracked run that is repeated, continued or started from, if any.
        mode: The flag that selects one of these, or None.
    """

    config: TrainingConfig
    source: Callable[[tuple[str, ...]], str] | None = None
    record: RunRecord | None = None
    mode: str | None = None

    @property
    def continued(self) -> RunRecord | None:
        """The run to resume, if any."""
        return self.record if self.mode == CONTINUE else None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a training that builds on a tracked run."""
    group = parser.add_argument_group(
        "building on a tracked run",
        "One of these at a time. The configuration of that run is used; values after 'with' override it.",
    )
    group.add_argument(
        REPEAT,
        metavar="ID",
        help="train again, as a new run, with the configuration, data and seed of run ID",
    )
    group.add_argument(
        CONTINUE,
        metavar="ID",
        help="resume run ID from its last complete checkpoint, in the same run, as if it had never stopped; "
        "training.iterations may be raised, intervals, devices and workers may change",
    )
    group.add_argument(
        START,
        nargs="+",
        metavar=("ID", "CHECKPOINT"),
        help="a new training that starts with weights of run ID: of its best checkpoint (its last where none is "
        "best), or of CHECKPOINT: best, last, an iteration, a file; seed and optimizer are new ones, see "
        "training.start_from.optimizer",
    )
    group.add_argument("--check_commit", action="store_true", help=CHECK_COMMIT)
    group.add_argument(TRIAL, nargs=2, type=int, metavar=("SWEEP", "NUMBER"), help=argparse.SUPPRESS)


def read_request(line: CommandLine, script: Path) -> TrainingRequest:
    """Read the requested training from a command line.

    Raises:
        InputError: Flags exclude each other, the run does not exist, or cannot be continued with these settings.
    """
    folder = script.resolve().parent
    mode, number = _mode(line)
    if mode is None:
        if line.own.check_commit:
            raise InputError(
                f"--check_commit compares with a tracked run: name one with {REPEAT}, {CONTINUE} or {START}."
            )
        return TrainingRequest(load_training_config(line.files, line.updates, folder))
    places = load_places(line.files, line.updates, folder)
    record = find_run(line, places.directories, places.tracking, number)
    if line.own.check_commit:
        check_commit(record, script)
    places = _places_of(record, places)
    # opened again, since the record's files are searched in the runs directory
    record = find_run(line, places.directories, places.tracking, number)
    if mode == CONTINUE:
        return _continuing(record, line, places, folder)
    if mode == START:
        return _starting(record, line, places, folder)
    ground = _without_outputs(record.config, line, folder)
    config, source = overlay_tracked(ground, line.files, line.updates, folder, places=places)
    return TrainingRequest(config, source, record, REPEAT)


def find_run(line: CommandLine, directories: DirectoriesConfig, tracking: TrackingConfig, run_id: int) -> RunRecord:
    """Look up the tracked training run; with --offline among those waiting to be uploaded to the database.

    Raises:
        RunNotFoundError: The run does not exist.
    """
    store = stores_of(line, directories, tracking).open("trainings")
    try:
        return store.get(run_id)
    except RunNotFoundError:
        if Path(store.description).parent != directories.runs / "tracking" / "offline":
            raise
        raise RunNotFoundError(
            f"No training run {run_id} waits on this machine for its database: leave --offline out, for the record of "
            "a run that was not begun with it is in the database."
        ) from None


def _mode(line: CommandLine) -> tuple[str | None, int]:
    """Return the flag that names a tracked run, or None, and the id of that run."""
    given = {REPEAT: line.own.repeat_run, CONTINUE: line.own.continue_run, START: line.own.start_from}
    modes = [flag for flag, value in given.items() if value is not None]
    if len(modes) > 1:
        raise InputError(
            f"{' and '.join(modes)} exclude each other: a training repeats a run, resumes it, or starts from its "
            "weights; give one of them."
        )
    if not modes:
        return None, 0
    only_new = {"--id": line.id is not None, "--name": line.name is not None, "--unobserved": line.unobserved}
    if modes[0] == CONTINUE and (flag := next((flag for flag, is_given in only_new.items() if is_given), None)):
        raise InputError(
            f"{CONTINUE} resumes the same run, with its id, name and record: leave {flag} out, or start a new run with "
            f"{REPEAT} or {START}."
        )
    words = given[modes[0]] if modes[0] == START else [given[modes[0]]]
    if len(words) > 2:
        raise InputError(
            f"{START} takes a run id and perhaps a checkpoint, found {' '.join(words)}: write "
            f"{START} ID [CHECKPOINT] with CONFIG.yaml key=value."
        )
    try:
        number = run_id(words[0], modes[0])
    except InputError as error:
        if modes[0] != START:
            raise
        raise InputError(
            f"{str(error).removesuffix(': correct it.')}; for a file of weights without a run, set "
            "training.start_from.checkpoint=FILE."
        ) from None
    assert number is not None
    return modes[0], number


def _places_of(record: RunRecord, places: Places) -> Places:
    """Use the folders a run was made with if they exist on this machine, unless others are named."""
    tracked: dict[str, Any] = record.config.get("directories") or {}
    changes = {}
    for key in ("runs", "data"):
        folder = Path(str(tracked.get(key) or ""))
        inside = key == "runs" and record.store.description.startswith(str(places.directories.runs))
        if f"directories.{key}" not in places.given and not inside and folder.is_absolute() and folder.is_dir():
            changes[key] = folder
    return replace(places, directories=places.directories.model_copy(update=changes))


def _continuing(record: RunRecord, line: CommandLine, places: Places, folder: Path) -> TrainingRequest:
    tracked, _ = overlay_tracked(record.config, places=places)
    wanted, source = overlay_tracked(record.config, line.files, line.updates, folder, places=places)
    if wanted.seed is None:  # a full configuration file leaves it unset
        wanted = wanted.model_copy(update={"seed": tracked.seed})
    ours, theirs = wanted.model, tracked.model
    if isinstance(ours, AutoContextModel) and isinstance(theirs, AutoContextModel) and ours.first_run_id is not None:
        # The run's configuration holds the network of that run, a file leaves it out.
        wanted = wanted.model_copy(update={"model": ours.model_copy(update={"first": theirs.first})})
    check_same_training(tracked, wanted, source, record.id)
    return TrainingRequest(wanted, source, record, CONTINUE)


def _without_outputs(tracked: Mapping[str, Any], line: CommandLine, folder: Path) -> dict[str, Any]:
    """Return a tracked configuration without what follows from its targets, if the command line names targets."""
    given = Layers()
    lay_given(given, TrainingConfig, line.files, line.updates, folder)
    if given.values.get("targets") is None:
        return dict(tracked)
    model = {
        key: value for key, value in (tracked.get("model") or {}).items() if key not in ("outputs", "num_fmaps_out")
    }
    best = ("best_metric", "best_mode")
    training = dict(tracked.get("training") or {})
    training["checkpoints"] = {key: one for key, one in (training.get("checkpoints") or {}).items() if key not in best}
    return {**tracked, "model": model, "training": training, "loss": {}}


def _starting(record: RunRecord, line: CommandLine, places: Places, folder: Path) -> TrainingRequest:
    own_start = {key: value for key, value in (record.config.get("training") or {}).items() if key != "start_from"}
    ground = {**{key: value for key, value in record.config.items() if key != "seed"}, "training": own_start}
    ground = _without_outputs(ground, line, folder)
    config, source = overlay_tracked(ground, line.files, line.updates, folder, places=places)
    which = line.own.start_from[1] if len(line.own.start_from) == 2 else config.training.start_from.checkpoint
    if which is not None and which not in ("best", "last") and not which.isdigit():
        which = str(Path(which).expanduser().absolute())
    start = config.training.start_from.model_copy(update={"run_id": record.id, "checkpoint": which})
    training = config.training.model_copy(update={"start_from": start})
    return TrainingRequest(config.model_copy(update={"training": training}), source, record, START)
