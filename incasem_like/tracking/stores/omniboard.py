"""The columns that Omniboard's table begins with: what one compares runs by, which it would show as clipped JSON."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import pymongo.errors

if TYPE_CHECKING:
    from pymongo.database import Database

COLUMNS = "omniboard.custom.columns"
# Omniboard's own metric columns read whole series; the summary in info has the same numbers, of the full series
_COLUMNS_OF_KIND: dict[str, tuple[tuple[str, str], ...]] = {
    "trainings": (
        ("Dice, best", "info.summary.dice_class_1.max"),
        ("Loss", "info.summary.loss_train_0.last"),
        ("Iteration", "info.summary.loss_train_0.last_step"),
        ("Learning rate", "config.training.optimizer.lr"),
        ("Training data", "config.training.data"),
        ("Started from run", "info.parent.training_run_id"),
    ),
    "predictions": (
        ("Training run", "info.parent.training_run_id"),
        ("Checkpoint iteration", "info.parent.iteration"),
        ("Data", "config.prediction.data"),
        ("Dice", "info.summary.dice_class_1_ds_0.last"),
    ),
    "segmentations": (("Prediction run", "info.prediction_run_id"),),
    "evaluations": (
        ("Prediction run", "info.prediction_run_id"),
        ("Dice, best", "info.summary.dice.max"),
    ),
}


def begin_columns(database: Database[Any], kind: str) -> None:
    """Give a database that holds no run yet its columns; whoever removes one of them there does not get it back.

    A server that is away or takes no writes is passed over: the start of the run says so.

    Args:
        database: The database of a kind of run.
        kind: trainings, predictions, segmentations, evaluations or bootstrapping.
    """
    wanted = _COLUMNS_OF_KIND.get(kind, ())
    with contextlib.suppress(pymongo.errors.PyMongoError):
        if not wanted or database["runs"].find_one({}, {"_id": 1}) or database[COLUMNS].find_one({}, {"_id": 1}):
            return
        for name, path in wanted:
            column = {"name": name, "config_path": path}
            database[COLUMNS].update_one({"_id": _id_of(name)}, {"$setOnInsert": column}, upsert=True)


def _id_of(name: str) -> Any:
    """Give the same id for the same column, so that two first runs at once do not make it twice."""
    from bson import ObjectId

    return ObjectId(hashlib.sha256(name.encode()).digest()[:12])
