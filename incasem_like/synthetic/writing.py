"""Writing one synthetic volume to disk: as folders of TIFF sections or in a Zarr container."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy.typing as npt
import tifffile

from incasem_like.errors import DataError, InputError
from incasem_like.synthetic.optic_lobe import SyntheticVolume, check_shape, generate_optic_lobe
from incasem_like.synthetic.parameters import OpticLobeParameters
from incasem_like.terminal import shell_command
from incasem_like.volumes import Volume, create_volume, dataset_exists, make_provenance, open_volume
from incasem_like.volumes.provenance import first_difference

TOOL = "generate_optic_lobe"
RECORD_NAME = "provenance.json"
FOLDERS = ("raw", "labels", "mask")
DATASETS = ("volumes/raw", "volumes/labels/columns", "volumes/labels/columns_mask")
CHUNK = 64


@dataclass(frozen=True)
class VolumeOrder:
    """One volume to generate and its output.

    Attributes:
        output: Folder of TIFFs, or Zarr container.
        format: ``tiff`` or ``zarr``.
        shape: Shape in voxels, z, y, x.
        voxel_size: Voxel size in nm, z, y, x.
        seed: Seed of the family.
        index: Number of the volume in the family.
        parameters: Parameters to draw from.
    """

    output: Path
    format: str
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    seed: int
    index: int
    parameters: OpticLobeParameters

    @property
    def next_command(self) -> str:
        """The next useful command once this volume exists."""
        scripts = "scripts/01_data_formatting"
        if self.format == "zarr":
            return shell_command("python", f"{scripts}/40_equalize_histogram.py", "-f", self.output, "-d", DATASETS[0])
        sections = ("-i", self.output / FOLDERS[0], "-f", f"{self.output}.zarr")
        sizes = (f"{size:g}" for size in self.voxel_size)
        return shell_command("python", f"{scripts}/00_image_sequences_to_zarr.py", *sections, "--resolution", *sizes)

    @property
    def record(self) -> dict[str, Any]:
        """JSON-able record of all that determines the voxels: equal records mean equal volumes."""
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(
                {
                    "shape": self.shape,
                    "voxel_size": self.voxel_size,
                    "seed": self.seed,
                    "index": self.index,
                    "parameters": self.parameters.model_dump(mode="json"),
                }
            )
        )


def check_seed(seed: int) -> None:
    """Check the seed of a family.

    Raises:
        InputError: It is below 0.
    """
    if seed < 0:
        raise InputError(f"--seed is {seed}: give 0 or more.")


def order_volumes(
    output: Path,
    format: str,
    shape: tuple[int, int, int],
    *,
    voxel_size: tuple[float, float, float],
    seed: int,
    num_volumes: int,
    parameters: OpticLobeParameters,
) -> list[VolumeOrder]:
    """Return the volumes with their outputs: one at ``output``, several with ``_000``, ``_001`` ... added to its stem.

    Raises:
        InputError: The format is unknown, the number below 1, the seed below 0, or a side too short.
    """
    check_shape(shape)
    check_seed(seed)
    if format not in ("tiff", "zarr"):
        raise InputError(f"The format {format} is not known: use tiff or zarr.")
    if num_volumes < 1 or not all(0 < size < math.inf for size in voxel_size):
        raise InputError(f"Got {num_volumes} volumes of voxel size {list(voxel_size)}: all must be numbers above 0.")
    if format == "zarr" and output.suffix != ".zarr":
        output = output / "volume.zarr" if not output.suffix else output.with_suffix(".zarr")
    places = [output] if num_volumes == 1 else [output.with_stem(f"{output.stem}_{i:03d}") for i in range(num_volumes)]
    return [
        VolumeOrder(place, format, shape, voxel_size, seed, index, parameters) for index, place in enumerate(places)
    ]


def make_volume(order: VolumeOrder, overwrite: bool = False) -> None:
    """Generate one volume and write it.

    Raises:
        InputError: The output holds something else, without ``overwrite``.
    """
    if not overwrite:
        refuse_what_is_there(order)
    order.output.parent.mkdir(parents=True, exist_ok=True)
    volume = generate_optic_lobe(
        order.shape, voxel_size=order.voxel_size, seed=order.seed, index=order.index, parameters=order.parameters
    )
    write = _write_tiff if order.format == "tiff" else _write_zarr
    try:
        write(order, volume)
    except OSError as error:
        error.filename = error.filename or str(order.output)  # not set by the TIFF writers
        raise


def columns_there(order: VolumeOrder) -> int | None:
    """Return the number of columns of an existing complete and equal volume, or None."""
    if order.format == "tiff":
        record = _read_record(order.output)
        return len(record["columns"]) if record and record["order"] == order.record else None
    if not all(dataset_exists(order.output, dataset) for dataset in DATASETS):
        return None
    for dataset in DATASETS:
        there = open_volume(order.output, dataset, allow_incomplete=True)
        if not there.complete or (there.provenance or {}).get("parameters") != order.record:
            return None
    return len(open_volume(order.output, DATASETS[1]).attributes["columns"])


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"order", "columns"} <= record.keys() else {}


def refuse_what_is_there(order: VolumeOrder) -> None:
    """Check that nothing but an unfinished volume with the same record would be overwritten.

    Raises:
        InputError: Something else exists there.
    """
    if order.format == "tiff":
        if order.output.exists() and (not order.output.is_dir() or any(order.output.iterdir())):
            _refuse(str(order.output), _read_record(order.output).get("order"), order)
        return
    for dataset in DATASETS:
        if dataset_exists(order.output, dataset):
            there = open_volume(order.output, dataset, allow_incomplete=True)
            made_with = (there.provenance or {}).get("parameters")
            if made_with != order.record:
                _refuse(str(there.address), made_with, order)


def _refuse(place: str, made_with: Any, order: VolumeOrder) -> NoReturn:
    told = first_difference(made_with, order.record) if isinstance(made_with, dict) else ""
    what = f"was made with {told}" if told else "exists and is not this volume"
    raise InputError(f"{place} {what}: give --overwrite or another --output.")


def _arrays(volume: SyntheticVolume) -> tuple[npt.NDArray[Any], ...]:
    return volume.raw, volume.labels, volume.mask


def _write_tiff(order: VolumeOrder, volume: SyntheticVolume) -> None:
    """Write sections into a temporary folder, then rename it."""
    partial = order.output.with_name(f".{order.output.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    digits = max(4, len(str(order.shape[0] - 1)))
    per_centimetre = tuple(1e7 / size for size in reversed(order.voxel_size[1:]))
    for name, array in zip(FOLDERS, _arrays(volume), strict=True):
        (partial / name).mkdir(parents=True)
        for number, section in enumerate(array):
            place = partial / name / f"section_{number:0{digits}d}.tif"
            tifffile.imwrite(place, section, resolution=per_centimetre, resolutionunit="CENTIMETER", metadata=None)
    provenance = make_provenance(TOOL, order.record)
    record = {"complete": True, "order": order.record, "columns": volume.columns, "provenance": provenance}
    (partial / RECORD_NAME).write_text(json.dumps(record, indent=2), encoding="utf-8")
    if order.output.exists():
        _remove_ours(order.output)
    partial.rename(order.output)


def _remove_ours(folder: Path) -> None:
    """Remove an earlier volume, unless its folder holds anything else.

    Raises:
        DataError: The folder holds other files.
    """
    foreign = [] if not folder.is_dir() else [e.name for e in folder.iterdir() if e.name not in (*FOLDERS, RECORD_NAME)]
    if foreign or not folder.is_dir():
        raise DataError(
            f"{folder} {'holds ' + foreign[0] if foreign else 'is a file'}, not a synthetic volume: give another path."
        )
    shutil.rmtree(folder)


def _write_zarr(order: VolumeOrder, volume: SyntheticVolume) -> None:
    provenance = make_provenance(TOOL, order.record)
    made: list[Volume] = []
    for dataset, array in zip(DATASETS, _arrays(volume), strict=True):
        attributes = {"columns": volume.columns} if array is volume.labels else {}
        there = create_volume(
            order.output,
            dataset,
            shape=order.shape,
            dtype=array.dtype,
            voxel_size=order.voxel_size,
            chunk_shape=tuple(min(CHUNK, size) for size in order.shape),
            provenance=provenance,
            attributes=attributes,
            overwrite=True,
        )
        there.write(array)
        made.append(there)
    for there in made:
        there.mark_complete()
