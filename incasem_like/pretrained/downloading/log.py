"""``models/downloads.json``: the hash of each file at its first download, which later copies must match."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from incasem_like.disk import exclusive, write_whole
from incasem_like.errors import InputError

LOG_NAME = "downloads.json"


@dataclass(frozen=True)
class LoggedFile:
    """The record of a downloaded file.

    Attributes:
        sha256: SHA-256 of the file at its first download.
        bytes: Its length.
        url: URL it came from, without credentials; empty for a file that was found on disk.
        time: Time of the download, UTC, ISO 8601.
    """

    sha256: str
    bytes: int
    url: str
    time: str


class DownloadLog:
    """The downloaded files, by path below the models directory."""

    def __init__(self, models_directory: Path) -> None:
        self.models_directory = models_directory
        self.path = models_directory / LOG_NAME

    def get(self, file: Path) -> LoggedFile | None:
        """Look a file up."""
        return self._read().get(self._name(file))

    def add(self, file: Path, sha256: str, url: str) -> None:
        """Record a file that exists now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = LoggedFile(sha256, file.stat().st_size, url, now)
        self._change(lambda entries: {**entries, self._name(file): entry})

    def forget(self, file: Path) -> None:
        """Remove the record of a file, so that the next copy is accepted whatever its content."""
        self._change(lambda entries: {name: entry for name, entry in entries.items() if name != self._name(file)})

    def _name(self, file: Path) -> str:
        return os.path.relpath(file, self.models_directory)

    def _read(self) -> dict[str, LoggedFile]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: LoggedFile(**entry) for name, entry in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                f"{self.path} is damaged: repair it, or delete it and trust the next copy of each model as the first."
            ) from None

    def _change(self, change: Callable[[dict[str, LoggedFile]], dict[str, LoggedFile]]) -> None:
        """Read, change and write the log, one process at a time, since another model may be downloaded at once."""
        self.models_directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.models_directory):
            entries = {name: asdict(entry) for name, entry in sorted(change(self._read()).items())}
            write_whole(self.path, lambda file: file.write(json.dumps(entries, indent=2).encode() + b"\n"))
