"""Trainings that leave checkpoints in a database, and what is found of them there."""

import hashlib
import math
from pathlib import Path
from typing import Any

from incasem_like.tracking import Run, RunStore, run_experiment
from incasem_like.tracking.stores.mongo import MongoStore

DICE = {10: 0.5, 20: 0.9, 30: math.nan, 40: 0.7}


def config(store_checkpoints: str | None = "best,last") -> dict[str, Any]:
    tracking = {} if store_checkpoints is None else {"store_checkpoints": store_checkpoints}
    return {
        "training": {"checkpoints": {"best_metric": "dice_class_1", "best_mode": "max"}},
        "tracking": tracking,
    }


def write_checkpoint(run: Run, iteration: int, dice: float | None = None, content: bytes = b"") -> Path:
    """Write and register both files of a checkpoint."""
    folder = run.runs_directory / "models" / f"{run.id:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    model, state = folder / f"model_checkpoint_{iteration}", folder / f"training_state_{iteration}"
    model.write_bytes(b"weights %d " % iteration + content)
    state.write_bytes(b"state %d" % iteration)
    run.register_checkpoint(model, iteration, {} if dice is None else {"dice_class_1": dice}, state)
    return model


def train(store: RunStore, policy: str | None = "best,last", **options: Any) -> None:
    def main(run: Run) -> None:
        for iteration, dice in DICE.items():
            write_checkpoint(run, iteration, dice)

    run_experiment(name="train", config=config(policy), main=main, store=store, **options)


def stored(store: MongoStore, run_id: int = 1) -> list[str]:
    return sorted(copy.name for copy in store.checkpoint_files.of_run(run_id))


def pieces(store: MongoStore) -> set[Any]:
    """Ids of the files of checkpoints that there are pieces of."""
    ids = store.database["fs.chunks"].distinct("files_id")
    return {file_id for file_id in ids if str(file_id).startswith("checkpoint://")}


def damaged(store: MongoStore, run_id: int = 1) -> list[str]:
    """Names of the files of checkpoints in the database whose content does not have their hash."""
    files = store.checkpoint_files
    copies = [(copy, hashlib.sha256(b"".join(files.read(copy))).hexdigest()) for copy in files.of_run(run_id)]
    return [copy.name for copy, digest in copies if digest != copy.sha256]
