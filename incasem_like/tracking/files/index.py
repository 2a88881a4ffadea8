"""A cache of what is wanted of many runs' files, so that only those that changed are read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.tracking.checkpoints.cache import cache_directory
from incasem_like.tracking.files.layout import write_whole

_VERSION = 2
_SECONDS_UNTIL_SETTLED = 2.0  # two writes within one tick of a file system's clock may look alike
_SECONDS_WHILE_LIVE = 300.0

Payload = dict[str, Any]


@dataclass(frozen=True)
class RunIndex:
    """One file of JSON lines: a line for each run, and one for each value that many runs share.

    A line counts while modification time and size of the run's files are those of when it was read. Damaged lines,
    other versions and a missing file only cost time. A folder that cannot be written has its index in the user's cache.

    Attributes:
        folder: The folder of the runs.
        name: What the index is called.
        sources: Names of the files that a run's line is made from; the first must be there.
        digest: Makes the payload of a run, given its folder: a dict fit for JSON.
        shared: Key of the payload whose value many runs have alike; stored once.
    """

    folder: Path
    name: str
    sources: Sequence[str]
    digest: Callable[[Path], Payload]
    shared: str

    def payloads(self) -> dict[int, Payload]:
        """Give the payload of every run, by id, sorted."""
        stamps = dict(self._stamps())
        lines, pool = self._read()
        found: dict[int, Payload] = {}
        renewed = False
        for run_id, stamp in stamps.items():
            line = lines.get(run_id)
            if line is not None and line[1] == stamp and line[3] in pool:
                found[run_id] = {**line[2], self.shared: pool[line[3]]}
                continue
            payload = self.digest(self.folder / str(run_id))
            found[run_id] = payload
            lines.pop(run_id, None)
            if _is_settled(stamp, payload):
                lines[run_id] = _line(run_id, stamp, payload, self.shared, pool)
                renewed = True
        if renewed:
            self._write([line for run_id, line in lines.items() if run_id in stamps], pool)
        return dict(sorted(found.items()))

    def _stamps(self) -> Iterator[tuple[int, list[int]]]:
        base = str(self.folder)
        try:
            names = os.listdir(base)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name.isdecimal() and str(int(name)) == name:
                stamp: list[int] = []
                for source in self.sources:
                    try:
                        status = os.stat(f"{base}/{name}/{source}")
                    except OSError:
                        stamp += (0, 0)
                    else:
                        stamp += (status.st_mtime_ns, status.st_size)
                if stamp[0]:
                    yield int(name), stamp

    def _places(self) -> tuple[Path, Path]:
        digest = hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:32]
        return self.folder / f".{self.name}.index", cache_directory() / "run_index" / f"{digest}.{self.name}"

    def _read(self) -> tuple[dict[int, list[Any]], dict[str, Any]]:
        """Give the lines of runs ``[id, stamp, payload, key of the shared value]`` by id, and the shared values."""
        for place in sorted(self._places(), key=_modified, reverse=True):
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
        for place in self._places():
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, lambda file: file.write(text.encode()))
                return
            except OSError:
                continue


def _line(run_id: int, stamp: list[int], payload: Payload, shared: str, pool: dict[str, Any]) -> list[Any]:
    value = payload[shared]
    key = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
    pool[key] = value
    return [run_id, stamp, {name: item for name, item in payload.items() if name != shared}, key]


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_settled(stamp: Sequence[int], payload: Payload) -> bool:
    """Whether a run is worth a line: neither just written nor about to be written again at its next heartbeat."""
    age = abs(time.time() - max(stamp[::2]) / 1e9)
    return age > _SECONDS_UNTIL_SETTLED and (age > _SECONDS_WHILE_LIVE or payload.get("status") != "RUNNING")
