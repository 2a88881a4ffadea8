"""What a run that is kept in a database leaves on its machine: all its metrics, and what is not delivered yet.

A journal is a folder ``<runs>/tracking/journal/<database>_<id>/``. ``metrics.jsonl`` stays for good. ``run.json`` and
``artifacts/`` are there as long as the database lacks something of them, so that a process that is killed while the
server is away loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.errors import StoreError
from incasem_like.tracking.files.layout import METRICS_LOG, copy_whole, write_whole
from incasem_like.tracking.metrics_log import MetricsLog, is_held
from incasem_like.tracking.metrics_log_reading import is_complete, was_written_in

_FOLDER = Path("tracking", "journal")
_MOST_FOLDERS = 1000


@dataclass(frozen=True)
class PendingArtifact:
    """A file of a run that is not in the database yet.

    Attributes:
        id: The id it will have in GridFS, 24 hexadecimal digits.
        name: What the run calls it.
        content_type: Its MIME type, or None.
        path: The copy in the journal.
    """

    id: str
    name: str
    content_type: str | None
    path: Path


class Journal:
    """The journal of one run.

    Args:
        folder: Its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = MetricsLog(folder / METRICS_LOG)

    def __repr__(self) -> str:
        return f"Journal({str(self.folder)!r})"

    @property
    def run_id(self) -> int:
        """The run's id in the database, as the folder's name has it."""
        return int(self.folder.name.rpartition("_")[2].partition(".")[0])

    @property
    def is_undelivered(self) -> bool:
        """Whether the database lacks something that is here."""
        return (self.folder / "run.json").is_file()

    @property
    def is_held(self) -> bool:
        """Whether the run goes on."""
        return is_held(self.log.path)

    def write(self, run: dict[str, Any], description: str) -> None:
        """Note the state of a run that is about to be sent.

        Args:
            run: Its document, as MongoDB takes it.
            description: Of the database, without credentials.
        """
        from bson import json_util

        text = json_util.dumps({"database": description, "run": run})
        write_whole(self.folder / "run.json", lambda file: file.write(text.encode()))

    def read(self) -> dict[str, Any] | None:
        """Read the state that was to be sent; None where all was delivered.

        Raises:
            StoreError: The file is damaged.
        """
        content = self._content()
        return None if content is None else dict(content["run"])

    def is_for(self, description: str) -> bool:
        """Whether what was to be sent was to go to the database of that description."""
        content = self._content()
        return content is not None and content["database"] == description

    def _content(self) -> dict[str, Any] | None:
        from bson import json_util
        from bson.json_util import JSONOptions

        path = self.folder / "run.json"
        try:
            content = json_util.loads(path.read_text(encoding="utf-8"), json_options=JSONOptions(tz_aware=False))
            return {"run": content["run"], "database": content["database"]}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{path} is damaged: restore it from a backup, or delete it to give it up.") from None

    def add_artifact(self, file_id: str, name: str, source: Path, content_type: str | None) -> PendingArtifact:
        """Keep a copy of a file until the database has it."""
        folder = self.folder / "artifacts"
        folder.mkdir(exist_ok=True)
        path = folder / file_id
        copy_whole(source, path)
        described = json.dumps({"name": name, "content_type": content_type})
        write_whole(path.with_suffix(".json"), lambda file: file.write(described.encode()))
        return PendingArtifact(file_id, name, content_type, path)

    def artifacts(self) -> list[PendingArtifact]:
        """List the files that the database lacks, in the order they were added."""
        described = sorted((self.folder / "artifacts").glob("*.json"))
        found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in described]
        return [
            PendingArtifact(path.stem, entry["name"], entry["content_type"], path.with_suffix(""))
            for path, entry in found
        ]

    def drop_artifact(self, artifact: PendingArtifact) -> None:
        """Let go of a file that the database has."""
        artifact.path.with_suffix(".json").unlink(missing_ok=True)
        artifact.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Open the log for a block that begins with it, and leave it open.

        Where the block breaks off, what it wrote into the log is taken back, and a journal that holds nothing goes.

        Raises:
            AlreadyWrittenError: The run goes on.
        """
        try:
            self.log.open()
            with self.log.all_or_nothing():
                yield
        except BaseException:
            self.log.close()
            self._remove_if_empty()
            raise

    def _remove_if_empty(self) -> None:
        entries = list(self.folder.iterdir())
        if all(path == self.log.path and path.stat().st_size == 0 for path in entries):
            shutil.rmtree(self.folder)

    def clear(self) -> None:
        """Let go of all that was delivered; the metrics stay."""
        (self.folder / "run.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)


class Journals:
    """The journals of one database's runs on this machine.

    Args:
        runs_directory: The folder of training runs.
        database: The database's name.
    """

    def __init__(self, runs_directory: Path, database: str) -> None:
        self.folder, self.database = Path(runs_directory) / _FOLDER, database

    def make(self, run_id: int) -> Journal:
        """Make the journal of a new run; one of another server's run of that id stays as it is.

        Raises:
            StoreError: The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self._paths(run_id):
                try:
                    path.mkdir()
                except FileExistsError:
                    continue
                return Journal(path)
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be written ({error.strerror or error}): what a run logs is kept there until the "
                "database has it; check its rights and the space on its disk."
            ) from None
        raise StoreError(f"{self.folder} holds {_MOST_FOLDERS} journals of run {run_id}: delete those of old servers.")

    def find(self, run_id: int, sessions: list[str]) -> Journal | None:
        """Find the journal of a run; None where it never went on on this machine.

        Args:
            run_id: The run.
            sessions: Tokens of all its sessions, by which it is told from another server's run of that id.
        """
        mine = (journal for journal in self if journal.run_id == run_id and journal.log.path.is_file())
        return next((journal for journal in mine if was_written_in(journal.log.path, sessions)), None)

    def complete_log(self, run_id: int, sessions: list[str]) -> Path | None:
        """Find the log that has all of a run's metrics; None where part of the run went on on another machine."""
        journal = self.find(run_id, sessions)
        return journal.log.path if journal is not None and is_complete(journal.log.path, sessions) else None

    def remove(self, run_id: int, sessions: list[str]) -> int:
        """Delete what this machine keeps of a run that was deleted; gives the bytes that frees."""
        journal = self.find(run_id, sessions)
        if journal is None:
            return 0
        size = sum(path.stat().st_size for path in journal.folder.rglob("*") if path.is_file())
        shutil.rmtree(journal.folder)
        return size

    def __iter__(self) -> Iterator[Journal]:
        """Go through all of them, by id."""
        start = f"{self.database}_"
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        ids = {name: name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)}
        for name in sorted((name for name in ids if ids[name].isdigit()), key=lambda name: (int(ids[name]), name)):
            yield Journal(self.folder / name)

    def _paths(self, run_id: int) -> Iterator[Path]:
        for number in range(1, _MOST_FOLDERS + 1):
            yield self.folder / f"{self.database}_{run_id}{f'.{number}' if number > 1 else ''}"
