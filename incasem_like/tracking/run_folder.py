"""A run in a folder: in a store of files, as the journal of a run in a database, or exported."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from incasem_like.disk import is_locked, write_whole
from incasem_like.errors import DamagedRecordError, DataError, IncasemError, StoreError
from incasem_like.tracking.kinds import KINDS
from incasem_like.tracking.metrics_log import MetricsLog, goes_on_from, was_written_in
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.values import as_mapping, as_sequence, from_bson, plain

METRICS_LOG = "metrics.jsonl"
ANNOTATIONS = "annotations.json"
_IN_OTHER_FILES = ("_id", "config", "info", "omniboard", "captured_out")  # than run.json
OWN_FILES = frozenset({"run.json", "config.json", "info.json", "metrics.json", METRICS_LOG, "cout.txt", ANNOTATIONS})
_FOLDER = Path("tracking", "journal")
_WITH_OUR_KEYS = ("config", "info", "result", "meta", "host")
_PENDING = "pending.json"
MANIFEST = "manifest.json"
FORMAT, VERSION = "incasem-like run", 1
CHECKPOINTS = "checkpoints"
Shared = Literal["sources", "resources"]  # files that runs have in common
SHARED: tuple[Shared, ...] = ("sources", "resources")
# What a run notes (info) and its result, with the ids of runs and paths of checkpoints of the store that it came to.
Renewed = tuple[Mapping[str, Any], Any]


def numbered(folder: Path) -> list[str]:
    """List the names in a store's folder that are ids of runs."""
    try:
        return [name for name in os.listdir(folder) if name.isdecimal() and str(int(name)) == name]
    except (FileNotFoundError, NotADirectoryError):
        return []


class RunFolder:
    """A run in a folder, in the layout of Sacred's file storage; every file appears whole or not at all.

    ``run.json``, ``config.json``, ``info.json``, ``annotations.json`` (tags and notes), ``cout.txt``, ``metrics.json``
    (bounded), ``metrics.jsonl`` (all of them) and artifacts under their names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    @property
    def run_id(self) -> int:
        """The run's id, which is the folder's name."""
        return int(self.folder.name)

    @property
    def is_run(self) -> bool:
        """Whether there is a record; it is written after all else."""
        return (self.folder / "run.json").is_file()

    @property
    def log_path(self) -> Path:
        """The log of all metrics."""
        return self.folder / METRICS_LOG

    @cached_property
    def log(self) -> MetricsLog:
        """The same, to be written; whoever has it open has the run."""
        return MetricsLog(self.log_path)

    @property
    def is_held(self) -> bool:
        """Whether a process has the run."""
        return is_locked(self.log_path)

    def has_points_of(self, sessions: list[str]) -> bool:
        """Return whether the log ends where the run ended whose sessions had these tokens, so that it is resumed."""
        return self.log_path.stat().st_size > 0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Open the log for a block that begins with it, and leave it open; where the block fails, restore it.

        Raises:
            AlreadyWrittenError: Another process has the run.
        """
        self.log.open()
        try:
            with self.log.all_or_nothing():
                yield
        except BaseException:
            self.log.close()
            self.remove_if_empty()
            raise

    def remove_if_empty(self) -> None:
        """Delete the folder of a run that is kept elsewhere, if there is nothing in it."""

    def read(self, name: str) -> dict[str, Any]:
        """Read a file of the run that holds a mapping; empty where it is missing."""
        content = self._load(name)
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise self._damaged(self.folder / name, "it holds no mapping")
        return content

    def read_leniently(self, name: str) -> dict[str, Any]:
        """Read a file of the run; empty where it cannot be read."""
        with contextlib.suppress(IncasemError, OSError):
            return self.read(name)
        return {}

    @property
    def annotations(self) -> dict[str, Any]:
        """Tags and notes, which the run itself never writes; empty where they cannot be read."""
        return self.read_leniently(ANNOTATIONS)

    @property
    def output(self) -> str:
        """What the run printed."""
        path = self.folder / "cout.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def read_document(self) -> dict[str, Any] | None:
        """Read all but metrics and files; None if it holds no run."""
        if self._load("run.json") is None:
            return None
        parts = {"config": self._load("config.json"), "info": self._load("info.json"), "omniboard": self.annotations}
        return {**self.read("run.json"), **parts, "captured_out": self.output}

    def write(self, name: str, content: Any) -> None:
        """Write a file of the run; of a configuration the order is kept."""
        text = json.dumps(plain(content), sort_keys=name != "config.json", indent=2)
        write_whole(self.folder / name, lambda file: file.write(text.encode()))

    def write_document(self, document: Mapping[str, Any]) -> None:
        """Write what ``read_document`` reads; ``run.json`` comes last, since a folder without it is not a run yet."""
        run = {key: value for key, value in document.items() if key not in _IN_OTHER_FILES}
        self.write("config.json", document.get("config") or {})
        self.write("info.json", document.get("info") or {})
        if annotations := document.get("omniboard"):
            self.write(ANNOTATIONS, annotations)
        self.write_output(str(document.get("captured_out") or ""))
        self.write("run.json", run)

    def write_shared(self, what: Shared, files: Iterable[tuple[str, bytes | None]]) -> list[list[str]]:
        """Write sources or resources as ``_sources/<number>/<name>``; return what the document says of them."""
        entries = []
        for number, (name, content) in enumerate(files):
            path = self.folder / f"_{what}" / str(number) / (Path(name).name or what)
            if content is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            entries.append([name, "not stored" if content is None else path.relative_to(self.folder).as_posix()])
        return entries

    def write_manifest(self, kind: str, run_id: int, origin: str, **more: Any) -> None:
        """Make an exported run of the folder."""
        exported = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = {"format": FORMAT, "version": VERSION, "kind": kind, "id": run_id, "store": origin}
        self.write(MANIFEST, {**manifest, "exported": exported, "files": {}, **more})

    def write_output(self, text: str) -> None:
        """Write what the run printed."""
        write_whole(self.folder / "cout.txt", lambda file: file.write(text.encode("utf-8", "replace")))

    def artifact(self, name: str) -> Path:
        """Return the path of an artifact: under its own name, unless that is one of the run's own files."""
        is_taken = name in OWN_FILES or name.startswith("artifact_")
        return self.folder / (f"artifact_{name}" if is_taken else name)

    def _damaged(self, path: Path, reason: object) -> IncasemError:
        """Make the error of a file that cannot be read."""
        return DamagedRecordError(
            f"The run record {path} is damaged ({reason}): restore it from a backup, or delete the run with "
            "'incasem-like runs delete'."
        )

    def _load(self, name: str) -> Any:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError) as error:
            raise self._damaged(path, error) from None


def from_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """Make a run from its document: plain keys, artifacts by name, without the links that Omniboard needs."""
    run = {key: from_bson(value) if key in _WITH_OUR_KEYS else value for key, value in document.items()}
    artifacts = [entry for entry in as_sequence(document.get("artifacts")) if isinstance(entry, Mapping)]
    run["artifacts"] = [str(entry.get("name")) for entry in artifacts]
    run["info"] = {key: value for key, value in as_mapping(run.get("info")).items() if key != "metrics"}
    return run


@dataclass(frozen=True)
class OpenedRun:
    """A run that this process, and no other, writes from now on.

    ``entry`` is its document but for config, info and output; ``sessions`` are the processes that wrote it, this one
    last; ``info`` and ``output`` are what it noted and printed before.
    """

    folder: RunFolder
    entry: dict[str, Any]
    sessions: list[dict[str, Any]]
    info: dict[str, Any] = field(default_factory=dict)
    output: str = ""


class Journal(RunFolder):
    """The folder of a run in a database: its log stays for good, the rest until the database has all of it."""

    @property
    def run_id(self) -> int:
        """The run's id in the database, as the folder's name has it."""
        return int(self.folder.name.rpartition("_")[2].partition(".")[0])

    @property
    def is_undelivered(self) -> bool:
        """Whether the database lacks something that is here."""
        return (self.folder / _PENDING).is_file() or self._is_of_earlier_version()

    @property
    def database(self) -> str:
        """The description of the database that lacks something."""
        return str(self.read(_PENDING).get("database"))

    def mark(self, description: str) -> None:
        """Note that the database of that description is about to lack something."""
        self.write(_PENDING, {"database": description})

    def unmark(self) -> None:
        """Note that the database has all."""
        (self.folder / _PENDING).unlink(missing_ok=True)

    def pending_artifacts(self) -> list[str]:
        """List the names of the files that the database lacks, in the order they were added."""
        names = map(str, as_sequence(self.read("run.json").get("artifacts")))
        return [name for name in names if self.artifact(name).is_file()]

    def upgrade(self) -> None:
        """Turn what an earlier version left, a document of MongoDB in one file, into a run's folder."""
        if not self._is_of_earlier_version():
            return
        from bson import json_util

        path = self.folder / "run.json"
        options = json_util.JSONOptions(tz_aware=False)
        try:
            content = json_util.loads(path.read_text(encoding="utf-8"), json_options=options)
            run, database = from_document(content["run"]), content["database"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(path, error) from None
        for described in sorted((self.folder / "artifacts").glob("*.json")):
            name = json.loads(described.read_text(encoding="utf-8"))["name"]
            if described.with_suffix("").is_file():
                described.with_suffix("").replace(self.artifact(name))
            run["artifacts"] = list(dict.fromkeys([*run["artifacts"], name]))
        self.mark(database)
        self.write_document({**run, "omniboard": None})
        shutil.rmtree(self.folder / "artifacts", ignore_errors=True)

    def _damaged(self, path: Path, reason: object) -> IncasemError:
        return StoreError(f"{path} is damaged ({reason}): restore it from a backup, or delete it to give it up.")

    def _is_of_earlier_version(self) -> bool:
        try:
            return "database" in self.read("run.json")
        except StoreError:
            return True

    def has_points_of(self, sessions: list[str]) -> bool:  # noqa: D102
        return goes_on_from(self.log_path, sessions)

    def remove_if_empty(self) -> None:  # noqa: D102
        entries = list(self.folder.iterdir())
        if all(path == self.log_path and path.stat().st_size == 0 for path in entries):
            shutil.rmtree(self.folder)

    def clear(self) -> None:
        """Delete all but the metrics; what says that something is undelivered goes last."""
        for path in self.folder.iterdir():
            if path.name not in (METRICS_LOG, _PENDING):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.unmark()


class Journals:
    """The journals of one database's runs on this machine."""

    def __init__(self, runs_directory: Path, database: str) -> None:
        self.folder, self.database = Path(runs_directory) / _FOLDER, database

    def make(self, run_id: int) -> Journal:
        """Make the journal of a new run; one of another server's run of that id stays as it is."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for number in count(1):
                path = self.folder / f"{self.database}_{run_id}{f'.{number}' if number > 1 else ''}"
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    return Journal(path)
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be written ({error.strerror or error}): what a run logs is kept there until the "
                "database has it; check its rights and the space on its disk."
            ) from None
        raise AssertionError

    def find(self, run_id: int, sessions: list[str]) -> Journal | None:
        """Find the journal of a run; None where it was never written on this machine.

        By the tokens of all its sessions it is told from another server's run of that id.
        """
        mine = (journal for journal in self if journal.run_id == run_id and journal.log_path.is_file())
        return next((journal for journal in mine if was_written_in(journal.log_path, sessions)), None)

    def __iter__(self) -> Iterator[Journal]:
        """Yield all of them, by id."""
        start = f"{self.database}_"
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        ids = {name: name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)}
        for name in sorted((name for name in ids if ids[name].isdigit()), key=lambda name: (int(ids[name]), name)):
            yield Journal(self.folder / name)


def _content_of(name: str) -> cached_property[dict[str, Any]]:
    return cached_property(lambda run: run.read(name))


class PortableRun(RunFolder):
    """An exported run: a run's folder with ``_sources/``, ``checkpoints/`` and a list of hashes.

    Attributes:
        document: As ``run.json`` has it: times as text, artifacts by name, sources as paths in the folder.
        metrics: As a store holds them: steps, values, timestamps, stride and count by name.

    Raises:
        DataError: It is not an exported run, or one of a later version of this package.
    """

    document, config = _content_of("run.json"), _content_of("config.json")
    info, metrics = _content_of("info.json"), _content_of("metrics.json")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        manifest = self.read(MANIFEST)
        number, kind, version = (manifest.get(key) for key in ("id", "kind", "version"))
        is_whole = isinstance(number, int) and kind in KINDS and isinstance(manifest.get("files"), dict)
        if manifest.get("format") != FORMAT or not isinstance(version, int) or (version <= VERSION and not is_whole):
            raise DataError(
                f"{folder} is not an exported run (by its {MANIFEST}, if it has one): name a folder that runs export "
                "made."
            )
        if version > VERSION:
            raise DataError(
                f"{folder} was exported by a later version of this package (format {version}, this one reads "
                f"{VERSION}): update the package."
            )
        self.manifest, self.kind, self.id = manifest, str(kind), int(manifest["id"])
        self.origin = str(manifest["store"])

    def artifacts(self) -> Iterator[tuple[str, Path]]:
        """Yield the files stored with the run: name, path."""
        for name in self.document.get("artifacts") or ():
            yield name, self.artifact(name)

    def stored(self, what: Shared) -> Iterator[tuple[str, Path | None, str]]:
        """Yield its ``sources`` or ``resources``: name, path (None for what is not here), what was noted of it."""
        owner = self.document if what == "resources" else self.document.get("experiment") or {}
        for name, relative in owner.get(what) or ():
            yield str(name), self.folder / relative if str(relative).startswith(f"_{what}/") else None, str(relative)

    def checkpoint(self, sha256: str) -> Path | None:
        """Find the file of that hash; None where it was not exported."""
        relative = (self.manifest.get("checkpoints") or {}).get(sha256)
        return None if relative is None else self.folder / relative

    def verify(self) -> None:
        """Check every file against its hash; ``DataError`` if one is missing, damaged, or outside the folder."""
        files: Mapping[str, Mapping[str, Any]] = self.manifest["files"]
        needed = [path for what in SHARED for _, path, _ in self.stored(what) if path is not None]
        needed += [path for _, path in self.artifacts()]
        for relative in dict.fromkeys([*files, *(path.relative_to(self.folder).as_posix() for path in needed)]):
            path, entry = self.folder / relative, files.get(relative)
            if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
                raise DataError(f"{self.folder / MANIFEST} names {relative}, outside the folder: do not use it.")
            if not path.is_file() or entry is None:
                where = "the exported run" if entry is not None else "the list of the exported run's files"
                raise DataError(f"{path} is missing from {where}: copy the whole folder again.")
            if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
                raise DataError(f"{path} changed since the run was exported: copy the whole folder again.")
        for sha256, relative in (self.manifest.get("checkpoints") or {}).items():
            if (files.get(relative) or {}).get("sha256") != sha256:
                raise DataError(f"{self.folder / MANIFEST} names a checkpoint {relative} that is none: do not use it.")

    def _damaged(self, path: Path, reason: object) -> IncasemError:
        return DataError(f"{path} is damaged ({reason}): copy the whole folder again.")
