"""The folders of runs in the runs directory: what they are called, and which numbers are in use."""

from __future__ import annotations

from pathlib import Path

MODELS = "models"
BESIDE_MODELS = ("tensorboard", "snapshots")


def folder_name(run_id: int) -> str:
    """Give the name of a run's own folders: its id with four digits, as incasem has them."""
    return f"{run_id:04d}"


def models_folder(runs_directory: Path, run_id: int) -> Path:
    """Say where a training run keeps its checkpoints."""
    return runs_directory / MODELS / folder_name(run_id)


def series_log_folder(runs_directory: Path, run_id: int) -> Path:
    """Say where a prediction with many checkpoints keeps its TensorBoard log, apart from that of a training."""
    return runs_directory / "tensorboard" / f"predict_{folder_name(run_id)}"


def highest_number(runs_directory: Path) -> int:
    """Give the highest id that has a folder of checkpoints, whichever store knows that run; 0 for none."""
    folder = runs_directory / MODELS
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)
