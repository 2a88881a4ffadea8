"""Published models: their list, ``models/pretrained.yaml``, and hashes of their files, ``models/downloads.json``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from incasem_like.config.kinds import Positive, Text, VoxelSize, Words
from incasem_like.config.locations import absolute
from incasem_like.config.reading import read_keys
from incasem_like.config.section import Document, Section
from incasem_like.disk import exclusive, write_whole
from incasem_like.errors import InputError

ENVIRONMENT_VARIABLE = "INCASEM_MODELS"
CHECKPOINT_FOLDER = "pretrained_checkpoints"
MANIFEST_NAME = "pretrained.yaml"
LOG_NAME = "downloads.json"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), Words("64 hexadecimal digits in small letters")]
FileName = Annotated[str, Field(pattern=r"^[^/\\]+$"), Words("a file name without folders")]


class PublishedFile(Section):
    """A file that can be downloaded."""

    file: FileName = Field(description="Its name here.")
    key: Text = Field(description="Its key in the bucket, or its path below a mirror's URL.")
    sha256: Sha256 | None = Field(None, description="Of its content; null where its publishers gave none.")


class PublishedModel(PublishedFile):
    """A published model: one checkpoint of one training run."""

    name: Text = Field(description="Short name of the run it becomes.")
    organelle: Text = Field(description="What its class 1 is.")
    fixation: Literal["CF", "HPF"] = Field(description="CF chemical fixation, HPF high-pressure freezing.")
    voxel_size: VoxelSize = Field(description="Voxel size in nm, z, y, x, that it was trained at.")


class Manifest(Document):
    """All published models."""

    endpoint: Text = Field(description="Base URL of the keys.")
    database: PublishedFile = Field(description="The archive of the training runs' database.")
    models: dict[Positive, PublishedModel] = Field(description="By the id of their training run.")

    def find(self, word: str) -> int:
        """Return the id of a model, by its id or name; ``InputError`` lists them."""
        names = {model.name: run_id for run_id, model in self.models.items()}
        run_id = int(word) if word.isdigit() else names.get(word)
        if run_id not in self.models:
            known = ", ".join(f"{known} ({model.name})" for known, model in sorted(self.models.items()))
            raise InputError(f"Unknown published model {word}: choose among {known}.")
        return run_id

    def id_of(self, path: Path) -> int | None:
        """Return the model id in a checkpoint name such as ``model_checkpoint_1841_er_CF.pt``, else None."""
        for run_id, model in self.models.items():
            if path.name == model.file or path.name.startswith(file_prefix(run_id)):
                return run_id
        return None


def file_prefix(run_id: int) -> str:
    """Return the prefix of the file names of a published model's checkpoints."""
    return f"model_checkpoint_{run_id}_"


def default_models_directory() -> Path:
    """Return the folder of downloaded models: ``$INCASEM_MODELS``, else ``models`` in the repository, else in ``.``."""
    if os.environ.get(ENVIRONMENT_VARIABLE):
        return absolute(Path(os.environ[ENVIRONMENT_VARIABLE]).expanduser())
    return _own_models_folder()


def read_manifest(path: Path | None = None) -> Manifest:
    """Read a manifest; by default the one that comes with the repository."""
    path = path or _own_models_folder() / MANIFEST_NAME
    return Manifest.from_values(read_keys(path), lambda _key: f"in {path}")


def find_checkpoint(model_id: int, model: PublishedModel, models_directory: Path) -> Path | None:
    """Find the downloaded checkpoint of a model: under its name, or any name that begins with its id."""
    folder = models_directory / CHECKPOINT_FOLDER
    named = folder / model.file
    others: Iterable[Path] = sorted(folder.glob(f"{file_prefix(model_id)}*.pt")) if folder.is_dir() else ()
    return next((path for path in (named, *others) if path.is_file()), None)


def _own_models_folder() -> Path:
    beside_package = Path(__file__).resolve().parents[2]
    if (beside_package / "scripts").is_dir():
        return beside_package / "models"
    return Path.cwd() / "models"


@dataclass(frozen=True)
class LoggedFile:
    """The record of a downloaded file: its hash and length, and when and from where it came first.

    The URL has no credentials; it is empty for a file that was found on disk.
    """

    sha256: str
    bytes: int
    url: str
    time: str


class DownloadLog:
    """``models/downloads.json``: the hash of each file at its first download, which later copies must match.

    Files are recorded by their path below the models directory.
    """

    def __init__(self, models_directory: Path) -> None:
        self.models_directory = models_directory
        self.path = models_directory / LOG_NAME

    def get(self, file: Path) -> LoggedFile | None:
        """Look a file up."""
        return self._read().get(self._name(file))

    def add(self, file: Path, sha256: str, url: str) -> None:
        """Record a file that exists now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._set(file, LoggedFile(sha256, file.stat().st_size, url, now))

    def forget(self, file: Path) -> None:
        """Remove the record of a file, so that the next copy is accepted whatever its content."""
        self._set(file, None)

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

    def _set(self, file: Path, record: LoggedFile | None) -> None:
        """Read, change and write the log, one process at a time, since another model may be downloaded at once."""
        self.models_directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.models_directory):
            entries = {**self._read(), self._name(file): record}
            kept = {name: asdict(entry) for name, entry in sorted(entries.items()) if entry is not None}
            write_whole(self.path, lambda opened: opened.write(json.dumps(kept, indent=2).encode() + b"\n"))
