"""Summaries of runs that are kept as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from incasem_like.tracking.condensing import condense, damaged, summarize, summary_of_points, without_collection
from incasem_like.tracking.files.index import RunIndex
from incasem_like.tracking.files.layout import ANNOTATIONS
from incasem_like.tracking.files.packing import PackedSummaries
from incasem_like.tracking.summaries import RunSummary, flatten, select

_RECORD_FILES = ("run.json", "info.json", ANNOTATIONS)


def read_summaries(folder: Path, kind: str, config_keys: Sequence[str], inputs: bool) -> list[RunSummary]:
    """Summarize all runs of a folder, see ``RunStore.summaries``; a run that cannot be read is DAMAGED."""
    with without_collection():
        records = RunIndex(folder, "summaries", _RECORD_FILES, _record, "inputs").payloads()
        configs = _chosen(folder, config_keys) if config_keys else {}
        found = []
        for run_id, payload in records.items():
            if "damage" in payload:
                found.append(damaged(kind, run_id, payload["damage"]))
                continue
            times = [datetime.fromisoformat(text) if text else None for text in payload["times"]]
            condensed = {**payload, "times": times, "summary": PackedSummaries(payload["summary"])}
            read = payload["inputs"] if inputs else ()
            found.append(summarize(kind, run_id, condensed, configs.get(run_id), read))
        return found


def _chosen(folder: Path, config_keys: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Choose leaves of the configuration of every run; which of a list of keys they are is found out once."""
    places: dict[int, dict[str, int]] = {}
    found = {}
    for run_id, payload in RunIndex(folder, "configs", ("config.json",), _config, "keys").payloads().items():
        keys, values = payload["keys"], payload["values"]
        if id(keys) not in places:
            places[id(keys)] = select({key: place for place, key in enumerate(keys)}, config_keys)
        found[run_id] = {key: values[place] for key, place in places[id(keys)].items()}
    return found


def _record(directory: Path) -> dict[str, Any]:
    """Reduce a run's files to what its summary needs."""
    try:
        document = {**_mapping(directory / "run.json"), "info": _mapping(directory / "info.json")}
        document["omniboard"] = _mapping(directory / ANNOTATIONS)
        info = document["info"]
        if "parent" not in info:  # only runs that do not note it themselves have it in their configuration
            document["config"] = _mapping(directory / "config.json")
        condensed = condense(document)
        if "summary" not in info:
            condensed["summary"] = _summary_of_metrics(directory / "metrics.json")
    except _DamagedError as error:
        return {"damage": str(error), "inputs": []}
    inputs = info.get("inputs")
    packed = PackedSummaries.pack(condensed["summary"])
    times = [moment and moment.isoformat() for moment in condensed["times"]]
    return {**condensed, "times": times, "summary": packed, "inputs": inputs if isinstance(inputs, list) else []}


def _config(directory: Path) -> dict[str, Any]:
    try:
        flat = flatten(_mapping(directory / "config.json"))
    except _DamagedError:
        flat = {}
    return {"keys": list(flat), "values": list(flat.values())}


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
