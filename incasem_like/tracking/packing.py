"""What an index of runs holds of each: its condensed record, and its configuration; written in few characters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from incasem_like.tracking.condensing import condense, damaged, summarize
from incasem_like.tracking.run_index import Payload
from incasem_like.tracking.summaries import RunSummary, as_mapping, flatten, select

# Keys of the payloads whose values many runs have alike
SHARED_IN_RECORDS, SHARED_IN_CONFIGS = "inputs", "keys"
_POINTS = ("last", "last_step", "min", "min_step", "max", "max_step")


class PackedSummaries(Mapping[str, Mapping[str, float]]):
    """Summaries of metrics that are unpacked when asked for: most lists of runs show few or none of them.

    Args:
        text: What ``pack`` gave.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def pack(cls, summaries: Mapping[str, Mapping[str, Any]]) -> str:
        """Write summaries of metrics in few characters."""
        packed = {name: [summary.get(key) for key in _POINTS] for name, summary in summaries.items()}
        return json.dumps(packed, separators=(",", ":"))

    @cached_property
    def _unpacked(self) -> dict[str, dict[str, float]]:
        return {
            name: {key: value for key, value in zip(_POINTS, values, strict=True) if value is not None}
            for name, values in json.loads(self._text).items()
        }

    def __getitem__(self, name: str) -> Mapping[str, float]:
        """Unpack one metric alone: lists that sort or filter by it read that of every run."""
        for before in ",{":
            _, found, after = self._text.partition(f"{before}{json.dumps(name)}:[")
            if found:
                values = json.loads(f"[{after.partition(']')[0]}]")
                return {key: value for key, value in zip(_POINTS, values, strict=True) if value is not None}
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._unpacked)

    def __len__(self) -> int:
        return len(self._unpacked)

    def __repr__(self) -> str:
        return repr(self._unpacked)


def pack_record(document: Mapping[str, Any]) -> Payload:
    """Reduce a run's document to what its summary needs, fit for JSON."""
    condensed = condense(document)
    inputs = as_mapping(document.get("info")).get("inputs")
    return {
        **condensed,
        "times": [moment and moment.isoformat() for moment in condensed["times"]],
        "summary": PackedSummaries.pack(condensed["summary"]),
        "inputs": inputs if isinstance(inputs, list) else [],
    }


def pack_damage(damage: str) -> Payload:
    """Note, in place of a record, what is wrong with it."""
    return {"damage": damage, "inputs": []}


def unpack_record(
    kind: str, run_id: int, payload: Payload, config: Mapping[str, Any] | None = None, inputs: bool = False
) -> RunSummary:
    """Make a summary of what ``pack_record`` or ``pack_damage`` gave."""
    if "damage" in payload:
        return damaged(kind, run_id, payload["damage"])
    times = [datetime.fromisoformat(text) if text else None for text in payload["times"]]
    condensed = {**payload, "times": times, "summary": PackedSummaries(payload["summary"])}
    return summarize(kind, run_id, condensed, config, payload["inputs"] if inputs else ())


def pack_config(config: Any) -> Payload:
    """Spread a configuration out and part its keys, which many runs share, from its values."""
    flat = flatten(config)
    return {"keys": list(flat), "values": list(flat.values())}


def unpack_configs(payloads: Mapping[int, Payload], wanted: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Choose leaves of the configuration of every run; which of a list of keys they are is found out once."""
    places: dict[int, dict[str, int]] = {}
    found = {}
    for run_id, payload in payloads.items():
        keys, values = payload["keys"], payload["values"]
        if id(keys) not in places:
            places[id(keys)] = select({key: place for place, key in enumerate(keys)}, wanted)
        found[run_id] = {key: values[place] for key, place in places[id(keys)].items()}
    return found
