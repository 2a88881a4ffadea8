"""What commands that predict share: their flags, the training runs, and the stores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.tracked import CHECK_COMMIT, check_commit, stores_of
from incasem_like.config import PredictionConfig
from incasem_like.errors import InputError, StoreError
from incasem_like.terminal import WORKERS_HELP, workers_source
from incasem_like.tracking import RunRecord, RunStore

Config = TypeVar("Config", bound="PredictionConfig")
NO_TRAINING = "No training run is named: add --run_id ID, the id that train.py printed."
_STORES = (
    ("--mongodb_training", "store of the training run, if different from the prediction's"),
    ("--mongodb_predictions", "store of the prediction run, if different from the training's"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that all commands that predict have."""
    for name, meaning in _STORES:
        parser.add_argument(name, metavar="URL", help=meaning)
    parser.add_argument("--workers", type=workers_source, metavar="FILE", help=WORKERS_HELP)
    parser.add_argument(
        "--dashboard", action="store_true", help="print the address of a page that shows what workers do"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="report what would be done, the time, memory and disk it takes, and problems",
    )
    parser.add_argument("--check_commit", action="store_true", help=f"{CHECK_COMMIT}, here the training run")


def with_given(config: Config, section: str, given: Mapping[str, Any]) -> Config:
    """Set keys in a section of the configuration to the values of flags; None leaves a key unchanged.

    Raises:
        ConfigError: A value is wrong, or contradicts another.
    """
    values = config.model_dump(mode="json")
    values[section].update({key: value for key, value in given.items() if value is not None})
    return type(config).from_values(values, lambda _path: "on the command line")


def training_ids(config: PredictionConfig) -> tuple[int, ...]:
    """Return the ids of the training runs.

    Raises:
        InputError: No training run is named.
    """
    named = config.prediction.run_id_training
    if named is None:
        raise InputError(NO_TRAINING)
    return named if isinstance(named, tuple) else (named,)


def find_trainings(line: CommandLine, config: PredictionConfig, script: Path) -> list[RunRecord]:
    """Look up the training runs, and check their commits if asked to."""
    trainings = [find_training(line, config, training_id) for training_id in training_ids(config)]
    if line.own.check_commit:
        for training in trainings:
            check_commit(training, script)
    return trainings


def find_training(line: CommandLine, config: PredictionConfig, training_id: int) -> RunRecord:
    """Look up a training run; with --offline first among those waiting to be uploaded to the database."""
    if line.offline and line.own.mongodb_training is None:
        waiting = open_run_store(line, config, "trainings")
        if training_id in waiting.ids():
            return waiting.get(training_id)
    try:
        return open_run_store(replace(line, offline=False), config, "trainings").get(training_id)
    except StoreError:
        if not line.offline:
            raise
        raise StoreError(
            f"Training run {training_id} was not begun with --offline, and the database that holds its record does not "
            "answer: start the server, a prediction cannot do without that record."
        ) from None


def open_run_store(line: CommandLine, config: PredictionConfig, kind: str) -> RunStore:
    """Open the store that the command line names, else the configuration's."""
    own = {"trainings": line.own.mongodb_training, "predictions": line.own.mongodb_predictions}[kind]
    return stores_of(line, config.directories, config.tracking, own).open(kind)


def prediction_store(line: CommandLine, config: PredictionConfig) -> RunStore | None:
    """Open the store of prediction runs; None if no record is kept."""
    return None if line.unobserved else open_run_store(line, config, "predictions")
