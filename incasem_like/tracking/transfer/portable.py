"""A run in a folder of its own: in the layout of Sacred's file storage, with its checkpoints and a list of hashes.

``run.json``, ``config.json``, ``info.json``, ``annotations.json``, ``cout.txt``, ``metrics.json`` (bounded, as a store
holds them), ``metrics.jsonl`` (all of them, where the exporting machine had them), artifacts under their names,
``_sources/``, ``checkpoints/``, and ``manifest.json``, which is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from incasem_like.errors import DataError
from incasem_like.tracking.address import KINDS
from incasem_like.tracking.checkpoints import file_sha256
from incasem_like.tracking.files.layout import ANNOTATIONS, METRICS_LOG, artifact_file_name

MANIFEST = "manifest.json"
FORMAT, VERSION = "incasem-like run", 1
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class RenewedIds:
    """What a run says of itself by ids of runs and paths of checkpoints, as these are where it came to.

    Attributes:
        info: What it noted.
        result: What it came to.
    """

    info: Mapping[str, Any]
    result: Any


class PortableRun:
    """An exported run.

    Args:
        folder: Its folder.

    Raises:
        DataError: It is no exported run, or one of a later version of this package.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise DataError(
                f"{folder} is no exported run, for it has no {MANIFEST}: name a folder that runs export made."
            )
        manifest = self._read(MANIFEST)
        if manifest.get("format") == FORMAT and manifest.get("version", 0) > VERSION:
            raise DataError(
                f"{folder} was exported by a later version of this package (format {manifest['version']}, this one "
                f"reads {VERSION}): update the package."
            )
        number, kind = manifest.get("id"), manifest.get("kind")
        known = isinstance(manifest.get("version"), int) and isinstance(number, int) and kind in KINDS
        if manifest.get("format") != FORMAT or not known or not isinstance(manifest.get("files"), dict):
            raise DataError(
                f"{self.folder / MANIFEST} is not that of an exported run: name a folder that runs export made."
            )
        self.manifest = manifest

    @property
    def kind(self) -> str:
        """What kind of run it is: trainings, predictions and so on."""
        return str(self.manifest["kind"])

    @property
    def id(self) -> int:
        """The id that it had."""
        return int(self.manifest["id"])

    @property
    def origin(self) -> str:
        """The store that it came from."""
        return str(self.manifest["store"])

    @cached_property
    def document(self) -> dict[str, Any]:
        """Its document as ``run.json`` has it: times as text, artifacts by name, sources as paths in the folder."""
        return self._read("run.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        return self._read("config.json")

    @cached_property
    def info(self) -> dict[str, Any]:
        """What it noted of itself."""
        return self._read("info.json")

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """Tags and notes."""
        return self._read(ANNOTATIONS)

    @property
    def output(self) -> str:
        """What it printed."""
        path = self.folder / "cout.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Its metrics as a store holds them: steps, values, timestamps, stride and count by name."""
        return self._read("metrics.json")

    @property
    def metrics_log(self) -> Path | None:
        """The log of all its metrics; None where it was not at hand."""
        path = self.folder / METRICS_LOG
        return path if path.is_file() else None

    def artifacts(self) -> Iterator[tuple[str, Path]]:
        """Go through the files stored with the run: name, path."""
        for name in self.document.get("artifacts") or ():
            yield name, self.folder / artifact_file_name(name)

    def stored(self, what: str) -> Iterator[tuple[str, Path | None, str]]:
        """Go through its ``sources`` or ``resources``: name, path (None for what is not here), what was noted of it."""
        owner = self.document if what == "resources" else self.document.get("experiment") or {}
        for name, relative in owner.get(what) or ():
            yield str(name), self.folder / relative if str(relative).startswith(f"_{what}/") else None, str(relative)

    def checkpoint(self, sha256: str) -> Path | None:
        """Find the file of that hash; None where it was not exported."""
        relative = (self.manifest.get("checkpoints") or {}).get(sha256)
        return None if relative is None else self.folder / relative

    def verify(self) -> None:
        """Hold every file against its hash.

        Raises:
            DataError: One is missing or damaged, or points out of the folder.
        """
        for relative, entry in self._files().items():
            path = self.folder / relative
            if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
                raise DataError(
                    f"{self.folder / MANIFEST} names {relative}, which is outside the folder: do not use it."
                )
            if not path.is_file():
                raise DataError(f"{path} is missing from the exported run: copy the whole folder again.")
            if path.stat().st_size != entry["bytes"] or file_sha256(path) != entry["sha256"]:
                raise DataError(f"{path} changed since the run was exported: copy the whole folder again.")
        stored = [path for what in ("sources", "resources") for _, path, _ in self.stored(what) if path is not None]
        for path in (*stored, *(path for _, path in self.artifacts())):
            if path.relative_to(self.folder).as_posix() not in self._files():
                raise DataError(f"{path} is not in the list of the exported run's files: copy the whole folder again.")
        for sha256, relative in (self.manifest.get("checkpoints") or {}).items():
            if (self._files().get(relative) or {}).get("sha256") != sha256:
                raise DataError(f"{self.folder / MANIFEST} names a checkpoint {relative} that is none: do not use it.")

    def _files(self) -> Mapping[str, Mapping[str, Any]]:
        files: Mapping[str, Mapping[str, Any]] = self.manifest["files"]
        return files

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is damaged ({error}): copy the whole folder again.") from None
        if not isinstance(content, dict):
            raise DataError(f"{path} is damaged (it holds no mapping): copy the whole folder again.")
        return content
