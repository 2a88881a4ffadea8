"""Summaries of metrics in few characters, as the index of a store of files holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

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
