"""Which tiles of a region are on disk, kept beside the output, so that an interrupted prediction goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incasem_like.errors import InputError
from incasem_like.volumes import Roi

FILE_NAME = ".predicted_tiles.jsonl"


class TileLog:
    """A file of one line for what is predicted how, and one more for each tile that is written.

    Attributes:
        path: The file.
        description: What is predicted with what; JSON-able.
        done: Begin of every tile that is written.
    """

    def __init__(self, path: Path, description: Mapping[str, Any], done: set[tuple[int, ...]]) -> None:
        self.path, self.description, self.done = path, description, done

    @classmethod
    def start(cls, folder: Path, description: Mapping[str, Any]) -> TileLog:
        """Begin a log in the folder of the output."""
        log = cls(folder / FILE_NAME, description, set())
        log.path.parent.mkdir(parents=True, exist_ok=True)
        _append(log.path, description)
        return log

    @classmethod
    def read(cls, folder: Path) -> TileLog:
        """Read the log of an earlier run, up to the last whole line.

        Raises:
            InputError: There is none.
        """
        path = folder / FILE_NAME
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        if lines and not lines[-1].endswith("\n"):
            # Torn off when the machine or the process went down; the tile is predicted again.
            lines.pop()
            os.truncate(path, sum(len(line.encode()) for line in lines))
        if not lines:
            raise InputError(f"{folder} holds no prediction that was begun: predict anew, without --resume.")
        return cls(path, json.loads(lines[0]), {tuple(json.loads(line)) for line in lines[1:]})

    def check(self, description: Mapping[str, Any]) -> None:
        """Make sure that the prediction goes on with what it was begun with.

        Raises:
            InputError: Something differs; it is named.
        """
        wanted = json.loads(json.dumps(description))
        for key, value in wanted.items():
            if self.description.get(key) != value:
                raise InputError(
                    f"The prediction in {self.path.parent} was begun with {key} {_short(self.description.get(key))}, "
                    f"and would go on with {_short(value)}: predict anew, without --resume."
                )

    def add(self, tile: Roi) -> None:
        """Note a tile whose values are on disk."""
        begin = tuple(int(number) for number in tile.begin)
        _append(self.path, begin)
        self.done.add(begin)

    def __contains__(self, tile: Roi) -> bool:
        return tuple(tile.begin) in self.done


def _append(path: Path, line: object) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
