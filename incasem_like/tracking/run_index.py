"""A cache of what is wanted of many runs, so that of a store only the runs that changed are read again."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from incasem_like.tracking.checkpoints.cache import cache_directory
from incasem_like.tracking.files.layout import write_whole

_VERSION = 4

_SECONDS_WHILE_LIVE = 300.0

Stamp = Sequence[Any]
Payload = dict[str, Any]


class RunIndex(ABC):
    """One file of JSON lines: a line for each run, and one for each value that many runs share.

    A line counts while the stamp of its run is that of when it was read. Damaged lines, other versions and a missing
    file only cost time.

    Args:
        name: What the index is called.
        shared: Key of the payload whose value many runs have alike; stored once.
        places: Where the index may lie; the first that can be written is used.
    """

    def __init__(self, name: str, shared: str, places: Sequence[Path]) -> None:
        self.name, self.shared, self.places = name, shared, tuple(places)

    @abstractmethod
    def digest(self, run_ids: Sequence[int]) -> Mapping[int, Payload]:
        """Read some runs and make the payload of each, a dict fit for JSON; those that are gone are left out."""

    @abstractmethod
    def is_settled(self, run_id: int, stamp: Stamp, payload: Payload) -> bool:
        """Whether a run is worth a line, see ``has_settled``."""

    def payloads(self, stamps: Mapping[int, Stamp]) -> dict[int, Payload]:
        """Give the payload of every run, by id, sorted.

        Args:
            stamps: Of each run something fit for JSON that is another one as soon as its payload is; taken before.
        """
        lines, pool = self._read()
        current = {
            run_id: line
            for run_id, line in lines.items()
            if run_id in stamps and line[1] == stamps[run_id] and line[3] in pool
        }
        found = {run_id: {**line[2], self.shared: pool[line[3]]} for run_id, line in current.items()}
        changed = self.digest([run_id for run_id in stamps if run_id not in current])
        settled = [
            self._line(run_id, stamps[run_id], payload, pool)
            for run_id, payload in changed.items()
            if self.is_settled(run_id, stamps[run_id], payload)
        ]
        if settled:
            self._write([*current.values(), *settled], pool)
        found.update(changed)
        return dict(sorted(found.items()))

    def _line(self, run_id: int, stamp: Stamp, payload: Payload, pool: dict[str, Any]) -> list[Any]:
        value = payload[self.shared]
        key = _digest(json.dumps(value, sort_keys=True))[:24]
        pool[key] = value
        return [run_id, stamp, {name: item for name, item in payload.items() if name != self.shared}, key]

    def _read(self) -> tuple[dict[int, list[Any]], dict[str, Any]]:
        """Give the lines of runs ``[id, stamp, payload, key of the shared value]`` by id, and the shared values."""
        for place in sorted(self.places, key=_modified, reverse=True):
            try:
                first, *lines = place.read_text(encoding="utf-8").splitlines()
                if json.loads(first) != [self.name, _VERSION]:
                    continue
                entries = json.loads(f"[{','.join(lines)}]")
                runs = {entry[0]: entry for entry in entries if len(entry) == 4}
                return runs, {entry[0]: entry[1] for entry in entries if len(entry) == 2}
            except (OSError, ValueError, TypeError, LookupError, RecursionError):
                continue
        return {}, {}

    def _write(self, lines: Sequence[Any], pool: dict[str, Any]) -> None:
        used = {line[3] for line in lines}
        entries = [[self.name, _VERSION], *([key, pool[key]] for key in pool if key in used), *lines]
        text = "\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
        for place in self.places:
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, lambda file: file.write(text.encode()))
                return
            except OSError:
                continue


def has_settled(age: float, least: float, status: Any) -> bool:
    """Tell a run that is neither just written nor about to be written again at its next heartbeat.

    Args:
        age: Seconds since it was last written; of a clock that is ahead, the other way round.
        least: Seconds within which another write might not show.
        status: What it says of itself, as far as that is known.
    """
    return abs(age) > least and (abs(age) > _SECONDS_WHILE_LIVE or status != "RUNNING")


def place_in_cache(store: str, name: str) -> Path:
    """Say where the user's cache has an index of a store, which is named by its address."""
    return cache_directory() / "run_index" / f"{_digest(store)[:32]}.{name}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
