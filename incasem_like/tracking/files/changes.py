"""Changes to runs that are kept as files, made from outside the run: tags and notes, its end, its deletion."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.deletion.model_files import DELETED_PREFIX, folder_size
from incasem_like.tracking.files.exclusive import exclusive
from incasem_like.tracking.files.layout import ANNOTATIONS, METRICS_LOG, write_whole
from incasem_like.tracking.files.shared_files import free_unnamed, named_by
from incasem_like.tracking.metrics_log import AlreadyWrittenError, MetricsLog
from incasem_like.tracking.moments import naive_utc
from incasem_like.tracking.plain import plain
from incasem_like.tracking.summaries import as_sequence


def change_annotations(directory: Path, add_tags: Sequence[str], remove_tags: Sequence[str], notes: str | None) -> None:
    """Change tags and notes; a file of their own holds them, which the run itself never writes."""
    with errors_of_writing(directory), exclusive(directory.parent):
        path = directory / ANNOTATIONS
        noted = read_annotations(directory)
        kept = [tag for tag in noted.get("tags", []) if tag not in remove_tags]
        noted["tags"] = list(dict.fromkeys([*kept, *(tag for tag in add_tags if tag not in remove_tags)]))
        if notes is not None:
            noted["notes"] = notes
        _write_json(path, noted)


def read_annotations(directory: Path) -> dict[str, Any]:
    """Read tags and notes; empty where there are none, or none that can be read."""
    try:
        noted = json.loads((directory / ANNOTATIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def write_end(directory: Path, document: dict[str, Any], status: str, stop_time: datetime | None) -> None:
    """Write how a run ended into its document."""
    moment = naive_utc(stop_time)
    with errors_of_writing(directory):
        _write_json(directory / "run.json", {**document, "status": status, "stop_time": moment and moment.isoformat()})


def write_notes(directory: Path, info: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write entries of a run's info."""
    with errors_of_writing(directory):
        _write_json(directory / "info.json", {**info, **plain(facts)})


def take_from_sight(folder: Path, run_id: int) -> None:
    """Rename a run's folder, so that no reader takes it for a run any more."""
    with errors_of_writing(folder):
        aside = folder / f"{DELETED_PREFIX}{run_id}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder / str(run_id), aside)


@contextlib.contextmanager
def nobody_else_writing(directory: Path, description: str) -> Iterator[None]:
    """Hold a run that is over, so that nobody takes it up to continue it meanwhile.

    Raises:
        InputError: Somebody just did.
    """
    log = MetricsLog(directory / METRICS_LOG)
    if not log.path.is_file():
        yield  # Sacred's own observer wrote it
        return
    try:
        with errors_of_writing(directory):
            log.open()
    except AlreadyWrittenError:
        raise InputError(f"Run {directory.name} in {description} still goes on: stop it first.") from None
    try:
        yield
    finally:
        log.close()


def half_deleted(folder: Path) -> list[int]:
    """List the ids of runs that were taken from sight and are not gone yet."""
    if not folder.is_dir():
        return []
    names = (entry.name.removeprefix(DELETED_PREFIX) for entry in folder.glob(f"{DELETED_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def free_folder(folder: Path, run_id: int) -> Freed:
    """Delete what is left of a run that was taken from sight, and the sources and resources that no other run names.

    Args:
        folder: The folder of the runs.
        run_id: The run.
    """
    aside = folder / f"{DELETED_PREFIX}{run_id}"
    document = _read_mapping(aside / "run.json")
    artifacts, metrics = as_sequence(document.get("artifacts")), _read_mapping(aside / "metrics.json")
    with errors_of_writing(folder):
        freed = Freed(runs=1, metrics=len(metrics), artifacts=len(artifacts), bytes=folder_size(aside))
        freed += free_unnamed(folder, named_by(document), run_id)
        shutil.rmtree(aside)
    return freed


def read_what_is_left(folder: Path, run_id: int) -> dict[str, Any] | None:
    """Read what can be read of a run that was taken from sight; None where it is gone."""
    aside = folder / f"{DELETED_PREFIX}{run_id}"
    if not aside.is_dir():
        return None
    parts = {name: _read_mapping(aside / f"{name}.json") for name in ("config", "info")}
    return {**_read_mapping(aside / "run.json"), **parts}


@contextlib.contextmanager
def errors_of_writing(folder: Path) -> Iterator[None]:
    """Say in one sentence that a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be changed ({error.strerror or error}): check its rights and the space on its disk."
        ) from None


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, sort_keys=True, indent=2)
    write_whole(path, lambda file: file.write(text.encode()))
