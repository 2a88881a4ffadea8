"""A lab: runs written as they stand, and the console command asked about them as a person would."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from incasem_like.commands.cli import answer
from incasem_like.terminal import run_guarded
from incasem_like.tracking import RunStore, open_store
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit status."""

    status: int
    output: str
    error: str

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line of the first table."""
        return [line.split() for line in self.output.split("\n\n")[0].splitlines()]

    def column(self, title: str) -> list[str]:
        place = self.rows[0].index(title)
        return [row[place] for row in self.rows[1:]]


@dataclass
class Lab:
    """Runs in one place, and the commands on them."""

    directory: Path
    url: str | None
    read_output: Callable[[], tuple[str, str]]
    clock: datetime = field(default=datetime(2026, 1, 1, 12))

    def store(self, kind: str = "trainings") -> RunStore:
        return open_store(self.url, kind, self.directory)

    def add(self, run_id: int, kind: str = "trainings", *, name: str = "", **fields: Any) -> None:
        """Put a finished run into the store; each starts an hour after the one before."""
        self.clock += timedelta(hours=1)
        document: dict[str, Any] = {
            "status": "COMPLETED",
            "command": kind,
            "experiment": {"name": kind, "sources": []},
            "host": {"hostname": "elsewhere"},
            "meta": {"options": {"--name": name or None}},
            "start_time": self.clock,
            "stop_time": self.clock + timedelta(minutes=run_id),
            "heartbeat": self.clock + timedelta(minutes=run_id),
            "result": None,
            "config": {},
            "info": {},
            "artifacts": [],
            "resources": [],
            "captured_out": "",
            **fields,
        }
        _write(self.store(kind), run_id, document)

    def ask(self, *words: object) -> Answer:
        """Call ``incasem-like`` with these words."""
        self.read_output()
        with pytest.raises(SystemExit) as stopped:
            run_guarded(lambda: answer([*map(str, words), *self._where()]))
        output, error = self.read_output()
        return Answer(int(stopped.value.code or 0), output, error)

    def command(self, *words: object) -> list[str]:
        """The same as a command line for a process of its own."""
        return [sys.executable, "-m", "incasem_like", *map(str, words), *self._where()]

    def _where(self) -> list[str]:
        return ["--runs_directory", str(self.directory), *(["--mongodb", self.url] if self.url else [])]

    def refused(self, *words: object) -> str:
        """Call it, make sure that it refuses in one line with exit status 2, and give that line."""
        asked = self.ask(*words)
        assert asked.status == 2, asked
        assert len(asked.error.strip().splitlines()) == 1, asked.error
        return asked.error.strip()


def _write(store: RunStore, run_id: int, document: dict[str, Any]) -> None:
    if isinstance(store, MongoStore):
        from incasem_like.tracking.values import to_bson

        store.database["runs"].insert_one({"_id": run_id, **to_bson(document)})
        return
    assert isinstance(store, FileStore)
    directory = store.folder / str(run_id)
    directory.mkdir(parents=True)
    parts = {"config.json": document.pop("config"), "info.json": document.pop("info")}
    (directory / "cout.txt").write_text(document.pop("captured_out"))
    for file, part in {**parts, "run.json": document}.items():
        (directory / file).write_text(json.dumps(part, default=datetime.isoformat))


def metric(last: float, least: float, most: float, steps: tuple[int, int, int] = (30, 10, 20)) -> dict[str, float]:
    """What a run's summary holds of a metric."""
    return dict(
        zip(
            ("last", "min", "max", "last_step", "min_step", "max_step"),
            (last, least, most, *steps),
            strict=True,
        )
    )


def at_a_terminal(command: list[str]) -> str:
    """What a command shows on a terminal of 60 columns."""
    main, other = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=other, stderr=subprocess.DEVNULL, env=environment)
    os.close(other)
    shown = b""
    try:
        while block := os.read(main, 4096):
            shown += block
    except OSError:  # a terminal whose other side is closed reads as an error
        pass
    assert process.wait() == 0
    os.close(main)
    return shown.decode()
