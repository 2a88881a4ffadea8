"""``models/downloads.json``: the hash of each file when it first came here, which later copies have to agree with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from incasem_like.errors import InputError
from incasem_like.tracking.files.exclusive import exclusive
from incasem_like.tracking.files.layout import write_whole

LOG_NAME = "downloads.json"


@dataclass(frozen=True)
class LoggedFile:
    """What is known of a downloaded file.

    Attributes:
        sha256: Of its content when it first came.
        bytes: Its length.
        url: Where it came from, without credentials; empty for one that was found here.
        time: When it came, UTC, ISO 8601.
    """

    sha256: str
    bytes: int
    url: str
    time: str


class DownloadLog:
    """The files that came, by path below the models directory."""

    def __init__(self, models_directory: Path) -> None:
        self.models_directory = models_directory
        self.path = models_directory / LOG_NAME

    def get(self, file: Path) -> LoggedFile | None:
        """Look a file up."""
        return self._read().get(self._name(file))

    def add(self, file: Path, sha256: str, url: str) -> None:
        """Note a file that is here now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = LoggedFile(sha256, file.stat().st_size, url, now)
        self._change(lambda entries: {**entries, self._name(file): entry})

    def forget(self, file: Path) -> None:
        """Trust the next copy, whatever it holds."""
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
        """Read, change and write the log, one process at a time: another model may be downloaded meanwhile."""
        self.models_directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.models_directory):
            entries = {name: asdict(entry) for name, entry in sorted(change(self._read()).items())}
            write_whole(self.path, lambda file: file.write(json.dumps(entries, indent=2).encode() + b"\n"))
