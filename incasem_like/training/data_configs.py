"""The data configurations of a tracked training; the run stores copies of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import RunRecord

ARTIFACTS = {"training": "training_data.json", "validation": "validation_data.json"}


def tracked_data(record: RunRecord, section: str) -> str | None:
    """Return the text of a data configuration as stored in the run.

    Args:
        record: The run.
        section: ``training`` or ``validation``.

    Returns:
        None if the run had none, or stored none.
    """
    name = ARTIFACTS[section]
    return record.artifact(name).decode("utf-8") if name in record.artifacts else None


def same_data(one: str, other: str) -> bool:
    """Return whether two data configurations are equal, apart from layout and the location of volumes."""
    try:
        first, second = json.loads(one), json.loads(other)
        if list(first) != list(second):
            return False
        return all(_same_entry(first[name], second[name]) for name in first)
    except (ValueError, TypeError, AttributeError):
        return False


def _same_entry(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    files = [PurePath(str(entry.get("file"))).parts for entry in (one, other)]
    shorter, longer = sorted(files, key=len)
    moved = longer[-len(shorter) :] == shorter
    return moved and {**one, "file": None} == {**other, "file": None}


def with_tracked_data(
    config: TrainingConfig, record: RunRecord, sections: Callable[[str], bool], *, exactly: bool
) -> tuple[TrainingConfig, dict[str, Path]]:
    """Replace data configurations whose files are missing by the run's own copies.

    Args:
        config: The configuration, derived from that of the run.
        record: The run.
        sections: For ``training`` and ``validation``, whether their data are those of the run.
        exactly: Whether a file that has changed is replaced by the copy too.

    Returns:
        The configuration, and by section the copies it names now, below ``data_configs`` of the runs directory.
    """
    copies: dict[str, Path] = {}
    for section in filter(sections, ARTIFACTS):
        path, text = getattr(config, section).data, tracked_data(record, section)
        if path is None or text is None or (path.is_file() and not (exactly and _differs(path, text))):
            continue
        copies[section] = config.directories.runs / "data_configs" / f"{record.id:04d}" / ARTIFACTS[section]
        copies[section].parent.mkdir(parents=True, exist_ok=True)
        copies[section].write_text(_with_places(text, path.parent, config.directories.data), encoding="utf-8")
    changed = {section: getattr(config, section).model_copy(update={"data": copy}) for section, copy in copies.items()}
    return config.model_copy(update=changed), copies


def _with_places(text: str, folder: Path, data: Path) -> str:
    """Write volumes beside the data configuration as absolute paths, since the copy is in another folder."""
    entries = json.loads(text)
    for entry in entries.values():
        beside = folder / str(entry.get("file"))
        if beside.exists() and not (data / str(entry.get("file"))).exists():
            entry["file"] = str(beside)
    return json.dumps(entries, indent=4)


def _differs(path: Path, text: str) -> bool:
    return not same_data(path.read_text(encoding="utf-8-sig", errors="replace"), text)
