"""The sources of an import: a model's id, a checkpoint, a dump of the database, a mock_db."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from incasem_like.config.network_sections import UnetModel
from incasem_like.errors import InputError
from incasem_like.models import is_package, is_portable, read_package, read_portable
from incasem_like.networks import save_checkpoint
from incasem_like.pretrained import bootstrapper, keras
from incasem_like.pretrained.bootstrapper import read_bootstrapper
from incasem_like.pretrained.checkpoint_run import (
    ImportedCheckpoint,
    read_imported,
    read_whole,
    run_of_checkpoint,
    run_of_portable,
)
from incasem_like.pretrained.databases import (
    LEDGER,
    is_archive,
    is_dump_folder,
    is_mock_db,
    open_database,
)
from incasem_like.pretrained.foreign import ForeignRun
from incasem_like.pretrained.importing import usable
from incasem_like.pretrained.keras import is_keras, read_keras
from incasem_like.pretrained.manifest import DownloadLog, Manifest, find_checkpoint
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import listed

Kind = Literal["database", "json", "checkpoint", "portable"]
# Records come before checkpoints, which are then added to them.
ORDER: tuple[Kind, ...] = ("database", "json", "checkpoint", "portable")
Candidate = tuple[ForeignRun, ImportedCheckpoint | None]


@dataclass(frozen=True)
class Source:
    """A source to import from: its kind and path."""

    kind: Kind
    path: Path


@dataclass(frozen=True)
class Description:
    """What the user states about a checkpoint or JSON that it does not contain; None for anything not given.

    Attributes:
        voxel_size: In nm, z, y, x.
        iteration: Number of updates that the network had seen.
        config_file: Configuration that it was trained with.
        scaling_factor: For a network that Keras stored: what it multiplies raw values by.
        raw_type: For a network that Keras stored: the type of the raw volumes it will predict.
        sigma: For a network of bootstrapper: sigma in nm of the descriptors that it reads or predicts.
    """

    name: str | None = None
    voxel_size: tuple[float, float, float] | None = None
    iteration: int | None = None
    config_file: Path | None = None
    scaling_factor: float | None = None
    raw_type: str = "uint16"
    sigma: float | None = None


class Sources:
    """Finds and reads sources of an import: published models, whose files are in the models directory, and others."""

    def __init__(self, manifest: Manifest, models_directory: Path) -> None:
        self.manifest, self.models_directory = manifest, models_directory
        self._log = DownloadLog(models_directory)

    def downloaded(self) -> list[Source]:
        """Return all downloaded sources."""
        database = self.models_directory / self.manifest.database.file
        found = [Source("database", database)] if database.is_file() else []
        for number, model in self.manifest.models.items():
            if file := find_checkpoint(number, model, self.models_directory):
                found.append(Source("checkpoint", file))
        if not found:
            raise InputError(
                f"No model was downloaded into {self.models_directory}: name what to import, or run "
                "incasem-like models download."
            )
        return found

    def find(self, word: str) -> Source:
        """Return the source that the user named; ``InputError`` if it does not exist, or cannot be imported."""
        path = Path(word).expanduser().absolute()
        if path.exists():
            return Source(_kind(path), path)
        if not word.isdigit() and word not in (model.name for model in self.manifest.models.values()):
            raise InputError(f"The file or folder {path} does not exist: check the path, or name a model by its id.")
        number = self.manifest.find(word)
        file = find_checkpoint(number, self.manifest.models[number], self.models_directory)
        if file is None:
            raise InputError(
                f"Model {number} is not in {self.models_directory}: run incasem-like models download {number}, or "
                "name its file."
            )
        return Source("checkpoint", file)

    def read(
        self, source: Source, description: Description, wanted: Sequence[int] | None = None, database: str | None = None
    ) -> Iterator[Candidate]:
        """Yield the trainings of a source, each with its checkpoint if that is available.

        Args:
            source: The source to read.
            description: The user's description of it.
            wanted: Ids of the trainings to take from a database; None for all.
            database: Which database of a dump; None for the one with runs.

        Raises:
            InputError: It lacks a requested training, or a description is needed.
            DataError, CheckpointError, ConfigError: It is damaged, or cannot be used.
        """
        if source.kind == "checkpoint":
            yield self._read_checkpoint(source.path, description)
        elif source.kind == "portable":
            model = (read_package if is_package(source.path) else read_portable)(source.path)
            model.verify()
            # The caller has placed the checkpoint when the next candidate is asked for.
            with tempfile.TemporaryDirectory(prefix="incasem-import-") as folder:
                file = Path(folder) / "checkpoint"
                save_checkpoint(file, model.network())
                training = model.description.training
                yield run_of_portable(model, source.path, description.name), read_imported(file, training.iteration)
        else:
            with open_database(source.path, database) as found:
                there, asked = found.ids(), wanted if source.kind == "database" else None
                for number in set(asked or ()).difference(there):
                    raise InputError(
                        f"{source.path} holds no run {number}: it holds {listed(sorted(there)) or 'none'}."
                    )
                yield from map(self._with_checkpoint, found.runs(asked))

    def _read_checkpoint(self, path: Path, description: Description) -> Candidate:
        if is_keras(path):
            if description.scaling_factor is None:
                raise InputError(
                    f"The factor that {path.name} multiplies raw values by is not known: add --scaling_factor F."
                )
            keras_unet, factor = read_keras(path), description.scaling_factor
            network = keras.converted(keras_unet, factor * np.iinfo(description.raw_type).max / 2, path)
            known = {"model": keras_unet.model.model_dump(mode="json")}
            return self._converted(path, network, f"{description.raw_type}_{factor:g}", known, description)
        content = read_whole(path)
        unet = read_bootstrapper(content, path, description.config_file)
        if unet is not None:
            known = unet.values(description.sigma)
            model = UnetModel.model_validate(known["model"])
            known["model"] = model.model_dump(mode="json")
            iteration = unet.iteration if description.iteration is None else description.iteration
            network, told = (
                bootstrapper.converted(unet, model),
                replace(description, config_file=None, iteration=iteration),
            )
            return self._converted(path, network, file_sha256(path)[:8], known, told)
        if description.sigma is not None:
            raise InputError(f"{path.name} is not a network of bootstrapper: leave --sigma out.")
        number = self.manifest.id_of(path)
        checkpoint = read_imported(path, description.iteration, self._url(path), content)
        run = run_of_checkpoint(
            checkpoint,
            run_id=number,
            model=self.manifest.models.get(number or 0),
            name=description.name,
            voxel_size=description.voxel_size,
            config_file=description.config_file,
        )
        return run, checkpoint

    def _converted(
        self, path: Path, network: nn.Module, suffix: str, known: dict[str, Any], description: Description
    ) -> Candidate:
        """Write a converted network as a checkpoint into the folder of models, and make a run of it."""
        file = self.models_directory / f"{path.stem}_{suffix}.pt"
        save_checkpoint(file, network)
        checkpoint = read_imported(file, description.iteration)
        run = run_of_checkpoint(
            checkpoint,
            name=description.name or path.stem,
            voxel_size=description.voxel_size,
            config_file=description.config_file,
            known=known,
        )
        return run, checkpoint

    def _with_checkpoint(self, run: ForeignRun) -> Candidate:
        """Add the published checkpoint of a training, where it was downloaded and fits."""
        number = run.id or 0
        model = self.manifest.models.get(number)
        path = None if model is None else find_checkpoint(number, model, self.models_directory)
        if path is None:
            return run, None
        checkpoint = read_imported(path, url=self._url(path))
        return run, checkpoint if usable(run, checkpoint) else None

    def _url(self, path: Path) -> str | None:
        """Return the URL that a downloaded file came from."""
        return logged.url or None if (logged := self._log.get(path)) else None


def _kind(path: Path) -> Kind:
    if is_mock_db(path):
        return "json" if path.suffix == ".json" and path.name != LEDGER else "database"
    if is_dump_folder(path):
        return "database"
    if is_package(path) or (path.is_file() and is_portable(path)):
        return "portable"
    if path.is_dir():
        raise InputError(f"{path} holds neither a dump with runs nor a ledger.json: name another folder, or a file.")
    return "database" if is_archive(path) else "checkpoint"
