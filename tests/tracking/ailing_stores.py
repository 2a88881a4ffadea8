"""Examining stores in tests, and trainings that are put into one without being run."""

import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from incasem_like.tracking import RunStore
from incasem_like.tracking.doctor import Finding, examine

WriteRun = Callable[..., None]


def findings(*stores: RunStore, thorough: bool = False, settled: timedelta = timedelta(0)) -> list[Finding]:
    return examine(list(stores), stores[0].runs_directory, thorough=thorough, settled=settled)


def mend(found: list[Finding]) -> None:
    for finding in found:
        assert finding.mend is not None, finding
        finding.mend()


def folder_of(store: RunStore, run_id: int = 1) -> Path:
    return store.runs_directory / "models" / f"{run_id:04d}"


def write_training(store: RunStore, write_run: WriteRun, run_id: int = 1, **fields: Any) -> Path:
    """Put a training with two checkpoints into a store, without what a real one leaves besides."""
    from incasem_like.tracking import file_sha256

    folder = folder_of(store, run_id)
    folder.mkdir(parents=True)
    entries = []
    for iteration in (5, 10):
        entry: dict[str, Any] = {"iteration": iteration, "metrics": {}}
        for kind in ("training_state", "model_checkpoint"):
            path = folder / f"{kind}_{iteration}"
            path.write_text(f"{kind} {run_id} {iteration}")
            described = {"path": f"models/{folder.name}/{path.name}", "sha256": file_sha256(path)}
            described["bytes"] = path.stat().st_size  # type: ignore[assignment]
            entry.update(described if kind == "model_checkpoint" else {"state": described})
        entries.append(entry)
    info = {"checkpoints": entries, "runs_directory": str(store.runs_directory)}
    write_run(store, run_id, info=info, host={"hostname": socket.gethostname()}, **fields)
    return folder
