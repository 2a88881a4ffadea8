"""Summaries of runs that are kept as files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from incasem_like.tracking.condensing import summary_of_points, without_collection
from incasem_like.tracking.files.layout import ANNOTATIONS
from incasem_like.tracking.packing import (
    SHARED_IN_CONFIGS,
    SHARED_IN_RECORDS,
    pack_config,
    pack_damage,
    pack_record,
    unpack_configs,
    unpack_record,
)
from incasem_like.tracking.run_index import Payload, RunIndex, Stamp, has_settled, place_in_cache
from incasem_like.tracking.summaries import RunSummary

_RECORD_FILES = ("run.json", "info.json", ANNOTATIONS)
_CONFIG_FILES = ("config.json",)
_SECONDS_UNTIL_SETTLED = 2.0  # two writes within one tick of a file system's clock may look alike


def read_summaries(folder: Path, kind: str, config_keys: Sequence[str], inputs: bool) -> list[RunSummary]:
    """Summarize all runs of a folder, see ``RunStore.summaries``; a run that cannot be read is DAMAGED."""
    with without_collection():
        records = _Records(folder, "summaries", SHARED_IN_RECORDS).payloads(_stamps(folder, _RECORD_FILES))
        configs: Mapping[int, Any] = {}
        if config_keys:
            index = _Configs(folder, "configs", SHARED_IN_CONFIGS)
            configs = unpack_configs(index.payloads(_stamps(folder, _CONFIG_FILES)), config_keys)
        return [
            unpack_record(kind, run_id, payload, configs.get(run_id), inputs) for run_id, payload in records.items()
        ]


class _FileIndex(RunIndex):
    """An index of runs in folders.

    It lies beside them; where that folder cannot be written, in the user's cache.

    Args:
        folder: The folder of the runs.
        name: What the index is called.
        shared: See ``RunIndex``.
    """

    def __init__(self, folder: Path, name: str, shared: str) -> None:
        super().__init__(name, shared, (folder / f".{name}.index", place_in_cache(str(folder.absolute()), name)))
        self.folder = folder

    def is_settled(self, run_id: int, stamp: Stamp, payload: Payload) -> bool:
        return has_settled(time.time() - max(stamp[::2]) / 1e9, _SECONDS_UNTIL_SETTLED, payload.get("status"))


class _Records(_FileIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {run_id: _record(self.folder / str(run_id)) for run_id in run_ids}


class _Configs(_FileIndex):
    def digest(self, run_ids: Sequence[int]) -> dict[int, Payload]:
        return {run_id: _config(self.folder / str(run_id)) for run_id in run_ids}


def _stamps(folder: Path, names: Sequence[str]) -> dict[int, Stamp]:
    """Give modification time and size of some files of each run, the first of which must be there."""
    return dict(_each_stamp(str(folder), names))


def _each_stamp(base: str, names: Sequence[str]) -> Iterator[tuple[int, Stamp]]:
    try:
        present = os.listdir(base)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in present:
        if name.isdecimal() and str(int(name)) == name:
            stamp: list[int] = []
            for source in names:
                try:
                    status = os.stat(f"{base}/{name}/{source}")
                except OSError:
                    stamp += (0, 0)
                else:
                    stamp += (status.st_mtime_ns, status.st_size)
            if stamp[0]:
                yield int(name), stamp


def _record(directory: Path) -> Payload:
    """Reduce a run's files to what its summary needs."""
    try:
        document = {**_mapping(directory / "run.json"), "info": _mapping(directory / "info.json")}
        document["omniboard"] = _mapping(directory / ANNOTATIONS)
        info = document["info"]
        if "parent" not in info:  # only runs that do not note it themselves have it in their configuration
            document["config"] = _mapping(directory / "config.json")
        if "summary" not in info:
            document["info"] = {**info, "summary": _summary_of_metrics(directory / "metrics.json")}
    except _DamagedError as error:
        return pack_damage(str(error))
    return pack_record(document)


def _config(directory: Path) -> Payload:
    try:
        return pack_config(_mapping(directory / "config.json"))
    except _DamagedError:
        return pack_config({})


def _summary_of_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Sum up the metrics of a run that does not do so itself: Sacred's own observer wrote it."""
    found = {}
    for name, points in _mapping(path).items():
        if isinstance(points, Mapping):
            summary = summary_of_points(points.get("steps"), points.get("values"))
            if summary:
                found[str(name)] = summary
    return found


class _DamagedError(Exception):
    """A file of a run is not what it should be; the message names it."""


def _mapping(path: Path) -> dict[str, Any]:
    """Read a file of a run that holds a mapping; empty where it is missing."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _DamagedError(f"{path} cannot be read: {error}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _DamagedError(f"{path} holds no mapping but a {type(value).__name__}")
    return value
