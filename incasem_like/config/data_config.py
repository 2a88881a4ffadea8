"""The data configuration: regions of volumes with raw, label and mask datasets (incasem's JSON)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from incasem_like.config.checking import explain, show
from incasem_like.config.kinds import (
    ExistingFile,
    Position,
    Positive,
    PositiveNumber,
    Size,
    Text,
    VoxelSize,
    contradiction,
)
from incasem_like.config.locations import absolute, default_data_directory, expand
from incasem_like.config.reading import parse_json, read_text
from incasem_like.config.section import Section
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import ConfigError

_NOT_IN_A_FOLDER_NAME = re.compile(r'[/\\:*?"<>|\x00-\x1f]')


class EntryFields(Section):
    """The fields of one entry in the JSON."""

    file: ExistingFile
    """Container of the volumes (Zarr or N5), relative to `directories.data`, else to the JSON."""
    voxel_size: VoxelSize
    """Voxel size in nm, z, y, x; must be equal in all entries and match the metadata of the volumes."""
    offset: Position | None = None
    """First voxel of the region, z, y, x, as absolute position (offset in nm / voxel size + index); absent = where the
    raw volume begins."""
    shape: Size | None = None
    """Extent of the region in voxels, z, y, x; absent = up to the end of the raw volume."""
    raw: Text
    """Dataset of the raw volume: uint8, uint16, or float from 0 to 1; one of its channels as `raw@c=1`."""
    further_raw: tuple[Text, ...] = ()
    """Datasets whose channels follow those of `raw`, for a network that reads predictions: `raw` is then a predicted
    dataset too, such as `lsd`, and this `[affinities]`."""
    labels: dict[str, Positive] = Field(default_factory=dict)
    """Label datasets, each with the class, 1 to n, of its voxels above 0; absent = no labels."""
    mask: Text | None = None
    """Mask dataset; voxels of value 0 are not learnt, predicted or evaluated; absent = no mask."""
    voxel_weights: Text | None = None
    """Dataset of each voxel's weight in the loss, floats, or integers divided by the attribute `scale` (uint8: 255
    without it), such as the `weight` of a self-consistency; 0 is not learnt, as in `mask`; absent = 1 everywhere."""
    metric_masks: tuple[Text, ...] = ()
    """Mask datasets; voxels where any of them is 0 are not evaluated; absent = no mask."""
    weight: PositiveNumber | None = None
    """Share of the training samples that come from this entry, relative to the weights of the others; all entries have
    one, or none; absent = in proportion to their volumes."""

    @field_validator("raw", "mask", "voxel_weights", mode="after")
    @classmethod
    def _no_slash_around(cls, dataset: str | None) -> str | None:
        return dataset.strip("/") if dataset is not None else None


class DataEntry(EntryFields):
    """One entry of a data configuration; ``file`` is absolute."""

    name: str

    @model_validator(mode="after")
    def _name_and_labels_make_sense(self) -> Self:
        name = self.name
        if found := _NOT_IN_A_FOLDER_NAME.search(name):
            raise contradiction(
                f"The entry name {show(name)} has {show(found[0])} in it, but names a folder: leave that out."
            )
        if not name.strip(". ") or name != name.strip() or name[0] == "." or name[-1] == "." or len(name) > 100:
            raise contradiction(
                f"The entry name {show(name)} cannot name a folder: "
                "use 1 to 100 characters without a dot or a space at the ends."
            )
        ids = list(self.labels.values())
        if sorted(ids) != list(range(1, len(ids) + 1)):
            wanted = ", ".join(map(str, range(1, len(ids) + 1)))
            raise contradiction(
                f"{self.name}.labels has the class ids {', '.join(map(str, ids))}: "
                f"{len(ids)} label datasets need the ids {wanted}, each once (0 is the background)."
            )
        return self


class DataConfig(Section):
    """A data configuration: its entries in the order of the JSON, and the JSON itself for tracking."""

    path: Path
    entries: tuple[DataEntry, ...]
    text: str

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Voxel size in nm that all entries share."""
        return self.entries[0].voxel_size


def required_file(path: Path | None, key: str) -> Path:
    """Return the path of a required data configuration.

    Raises:
        ConfigError: The path is missing.
    """
    if path is None:
        raise ConfigError(f"{key} is not set: name a data configuration, such as {key}=data_configs/my_data.json.")
    return path


def load_data_config(
    path: Path,
    data_directory: Path | None = None,
    *,
    num_classes: int | None = None,
    voxel_size: Sequence[float] | None = None,
) -> DataConfig:
    """Read and check a data configuration; the volumes themselves are not opened.

    Args:
        path: Path of the JSON file.
        data_directory: Folder that ``file`` is relative to, ``directories.data``; by default that of this machine.
        num_classes: ``data.num_classes``; entries with labels have to name one dataset for each class above 0.
        voxel_size: ``data.voxel_size`` in nm; entries have to agree.

    Raises:
        ConfigError: The file is missing or not JSON, a field unknown, missing or wrong, a container missing, or
            entries contradict each other or the arguments.
    """
    path = absolute(Path(path).expanduser())
    text = read_text(path, "The data configuration")
    return parse_data_config(text, path, data_directory, num_classes=num_classes, voxel_size=voxel_size)


def parse_data_config(
    text: str,
    path: Path,
    data_directory: Path | None = None,
    *,
    num_classes: int | None = None,
    voxel_size: Sequence[float] | None = None,
) -> DataConfig:
    """Check the JSON text of a data configuration as :func:`load_data_config`; ``path`` is where it was read from."""
    document = parse_json(text, str(path))
    if not isinstance(document, dict) or not document:
        raise ConfigError(f'{path} holds no entries: write {{"name": {{"file": ..., "voxel_size": ..., "raw": ...}}}}.')
    folders = (data_directory or default_data_directory(), path.parent)
    entries = tuple(_read_entry(name, fields, path, folders) for name, fields in document.items())
    _check_entries(entries, path, num_classes, voxel_size)
    return DataConfig(path=path, entries=entries, text=text)


def _read_entry(name: str, fields: object, path: Path, folders: Sequence[Path]) -> DataEntry:
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{name} must be an object with file, voxel_size and raw, found {show(fields)} in {path}.")
    values: dict[str, Any] = dict(fields)
    if isinstance(values.get("file"), str) and values["file"]:
        values["file"] = _find_container(values["file"], f"{name}.file", folders)
    try:
        return DataEntry(name=name, **dict(EntryFields.model_validate(values)))
    except ValidationError as error:
        raise explain(error, EntryFields, fields, lambda _key: f"in {path}", prefix=(name,)) from None


def _find_container(text: str, key: str, folders: Sequence[Path]) -> Path:
    if "://" in text:
        raise ConfigError(f"{key} is the URL {text}: name a container on a disk, such as cell_1/cell_1.zarr.")
    expanded = Path(expand(text, key))
    candidates = list(dict.fromkeys(absolute(expanded, folder) for folder in folders))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ConfigError(
        f"{key} names a container that does not exist: looked for {' and '.join(map(str, candidates))}; "
        "correct it or set directories.data."
    )


def _check_entries(
    entries: Sequence[DataEntry], path: Path, num_classes: int | None, wanted: Sequence[float] | None
) -> None:
    """Check that entries agree with each other, with ``data.num_classes`` and with ``data.voxel_size``.

    Raises:
        ConfigError: They do not.
    """
    seen: dict[str, str] = {}
    for entry in entries:
        other = seen.setdefault(entry.name.casefold(), entry.name)
        if other != entry.name:
            raise ConfigError(
                f"The entries {other} and {entry.name} in {path} differ in upper and lower case only, "
                "which names the same folder on some file systems: rename one."
            )
    without = [entry.name for entry in entries if entry.weight is None]
    if without and len(without) < len(entries):
        raise ConfigError(
            f'{", ".join(without)} in {path} has no "weight", but other entries do: give all of them one, or none.'
        )
    first = entries[0]
    for entry in entries:
        if not same_voxel_size(entry.voxel_size, first.voxel_size):
            raise ConfigError(
                f"{entry.name} has voxel_size {_nm(entry.voxel_size)}, but {first.name} {_nm(first.voxel_size)} "
                f"in {path}: one run takes volumes of one voxel size."
            )
    if wanted is not None and not same_voxel_size(first.voxel_size, wanted):
        raise ConfigError(
            f"{first.name} has voxel_size {_nm(first.voxel_size)} in {path}, but data.voxel_size is {_nm(wanted)}: "
            f"correct the entry or, to train with it, set data.voxel_size={_nm(first.voxel_size, unit='')}."
        )
    for entry in entries:
        if num_classes is not None and entry.labels and len(entry.labels) != num_classes - 1:
            raise ConfigError(
                f"{entry.name} in {path} has {len(entry.labels)} label datasets, "
                f"but data.num_classes {num_classes} needs {num_classes - 1} (the background has none): "
                f"add or remove label datasets or set data.num_classes={len(entry.labels) + 1}."
            )


def _nm(sizes: Sequence[float], unit: str = " nm") -> str:
    return f"[{', '.join(f'{size:.10g}' for size in sizes)}]{unit}"


def output_container(file: Path, data_directory: Path, prefix: Path) -> Path:
    """Return the container of predictions for ``file``: the one of the same relative path under ``prefix``.

    A container outside ``data_directory`` has no relative path. Its predictions go to a container of its name under
    ``prefix``, or to the container itself where ``prefix`` is ``data_directory``, the default.
    """
    if file.is_relative_to(data_directory):
        return prefix / file.relative_to(data_directory)
    return file if prefix == data_directory else prefix / file.name
