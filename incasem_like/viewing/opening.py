"""Scenes of what users name: containers, datasets, runs, data configurations, snapshots, and grids of predictions."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from incasem_like.config.data_config import DataEntry, load_data_config
from incasem_like.errors import DataError, InputError
from incasem_like.segmentation.result_folder import PROVENANCE
from incasem_like.terminal import counted
from incasem_like.tracking.lineage import input_hashes
from incasem_like.viewing.layers import Layer, Shader, meaning_of
from incasem_like.viewing.objects import ObjectLayer, find_objects
from incasem_like.viewing.scene import Plane, Scene
from incasem_like.viewing.served import ServedVolume
from incasem_like.volumes import NanometreRoi, Roi, Volume, dataset_exists, list_datasets, nanometres, open_volume
from incasem_like.volumes.address import Address, join
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.levels import find_levels
from incasem_like.volumes.opening import describe_missing, locate

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord

_LEVEL = re.compile(r"s?\d+")
_SNAPSHOT = re.compile(r"(\d+)\.zarr")
PLACES = "places.csv"
SHOWN_AT_FIRST = 4  # more layers than this: those beyond the first raw and labels begin hidden


def open_place(place: str) -> list[Layer]:
    """Return the layers of a container, a group, a dataset, or a folder of snapshots.

    Args:
        place: Local path or URL of a Zarr, N5 or precomputed volume, of what is in it, or of another file that holds a
            volume; or a folder with ``<iteration>.zarr`` as trainings write their snapshots.

    Raises:
        DataError: Nothing that can be viewed is there.
    """
    address = locate(place)
    if address.is_local and (steps := snapshots_in(Path(address.location))):
        return _layers_of_snapshots(steps)
    layers = [open_layer(one) for one in _datasets_at(address)]
    if not layers:
        raise DataError(describe_missing(address))
    return layers


def _datasets_at(address: Address) -> Iterator[Address]:
    """Find the datasets at an address; a pyramid counts as one."""
    if dataset_exists(address):
        yield address
        return
    whole = replace(address, dataset="", selection=())
    inside = f"{address.dataset}/" if address.dataset else ""
    pyramids = set()
    for name in list_datasets(whole):
        if not name.startswith(inside):
            continue
        group, _, last = name.rpartition("/")
        if _LEVEL.fullmatch(last) and (group or not inside) and group not in pyramids:
            parent = replace(whole, dataset=group)
            if len(_levels(parent)) > 1:
                pyramids.add(group)
                yield parent
                continue
        if group not in pyramids:
            yield replace(whole, dataset=name)


def _levels(address: Address) -> list[Address]:
    try:
        return find_levels(address)
    except DataError:
        return []


def open_layer(address: Address, shader: Shader = "default") -> Layer:
    """Open a dataset, or all levels of a pyramid, as a layer; an incomplete one is shown with a warning.

    Raises:
        DataError: It cannot be read.
    """
    levels = [open_volume(level, allow_incomplete=True) for level in find_levels(address)]
    for volume in levels:
        if not volume.complete:
            warn_once(f"{volume.address} is incomplete: some of it may be missing.")
    finest = levels[0]
    if finest.voxel_size is None:
        warn_once(f"{finest.address} does not give its voxel size, and is shown with 1 nm.")
    name = address.dataset or Path(address.container).stem
    return Layer(name.removeprefix("volumes/"), ServedVolume(levels), meaning_of(finest), shader)


def snapshots_in(folder: Path) -> list[tuple[int, Path]]:
    """Return the snapshots in a folder, as iteration and container, in their order."""
    found = [(int(match[1]), path) for path in folder.glob("*.zarr") if (match := _SNAPSHOT.fullmatch(path.name))]
    return sorted(found)


def _layers_of_snapshots(steps: Sequence[tuple[int, Path]]) -> list[Layer]:
    """Return a layer for each dataset that all snapshots have, with an axis of their iterations."""
    names = list_datasets(str(steps[0][1]))
    iterations = [str(iteration) for iteration, _ in steps]
    layers = []
    for name in names:
        if all(dataset_exists(path, name) for _, path in steps):
            volumes = [open_volume(path, name, allow_incomplete=True) for _, path in steps]
            layers.append(Layer(name, ServedVolume([], volumes, iterations), meaning_of(volumes[0])))
    if not layers:
        raise DataError(f"The snapshots in {steps[0][1].parent} have no dataset in common.")
    order = ["raw", "labels", "mask", "probabilities", "channels", "error"]
    return sorted(layers, key=lambda layer: order.index(layer.meaning))


def places_of_run(record: RunRecord) -> list[str]:
    """Return the addresses of what a run read and wrote, of those that still exist.

    Raises:
        DataError: The run names no data, or none of them are where it found them.
    """
    written = [text for text in _texts(record.document.get("result")) if "/" in text]
    steps = {entry.get("name"): entry.get("result") or {} for entry in record.info.get("steps") or ()}
    if group := steps.get("errors", {}).get("group"):  # of a round of bootstrapping
        written.append(f"{group}/error_map")
    groups = [text.rpartition("/")[0] for text in written if record.kind == "predictions"]
    read = input_hashes(record)  # type: ignore[arg-type]  # a record has the inputs of its summary
    named = list(dict.fromkeys([*read, *(groups or written)]))
    found = [place for place in named if _exists(place)]
    if not named:
        raise DataError(f"Run {record.id} ({record.kind}) names no data that could be shown.")
    if not found:
        raise DataError(
            f"Nothing that run {record.id} ({record.kind}) names exists any more: {', '.join(named[:3])}"
            + (f" and {len(named) - 3} more." if len(named) > 3 else ".")
        )
    for place in named:
        if place not in found and place in read:
            warn_once(f"{place} has moved or was deleted, and is not shown.")
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _exists(place: str) -> bool:
    try:
        found = dataset_exists(place) or find_objects(Path(place)) or places_to_paint(Path(place))
        return bool(found or list_datasets(place))
    except (DataError, InputError, OSError):
        return False


def scene_of_places(places: Sequence[str], plane: Plane = "4panel", shader: Shader = "default") -> Scene:
    """Return one view of everything at some places, each dataset once.

    Beside volumes these may be meshes, skeletons, graphs, and places to paint; of those, the volumes that they were
    made from are shown too. Graphs beside datasets of a container are found.

    Raises:
        DataError: As ``open_place``.
    """
    layers: dict[str, Layer] = {}
    objects: list[ObjectLayer] = []
    to_paint: dict[str, NanometreRoi] = {}
    for place in places:
        found, boxes = objects_at(place), places_to_paint(Path(place))
        objects += found
        to_paint |= boxes
        for opened in open_place(place) if not found and not boxes else _sources_of(Path(place)):
            layers.setdefault(str(opened.served.finest.address), opened)
    if to_paint and not layers:  # the places alone: in the raw around the first
        address = next(iter(_crops_of(Path(places[0]), "raw")))
        layers[str(address)] = open_layer(address)
    objects += [graph for graph in _graphs_beside(layers.values()) if graph not in objects]
    several = len({address.container for address in map(_address, layers.values())}) > 1
    named = [
        replace(layer, shader=shader, name=f"{Path(_address(layer).container).stem}/{layer.name}")
        if several
        else replace(layer, shader=shader)
        for layer in layers.values()
    ]
    return Scene(arranged(named), plane=plane, objects=objects, places=to_paint)


def objects_at(place: str) -> list[ObjectLayer]:
    """Return the meshes, skeletons and graphs in a local folder or file; none of a dataset."""
    return [] if not Path(place).exists() or _holds_volume(place) else find_objects(Path(place))


def _holds_volume(place: str) -> bool:
    try:
        return dataset_exists(place)
    except (DataError, InputError, OSError):
        return False


def _sources_of(path: Path) -> Iterator[Layer]:
    """Open the volumes that a folder of results was made from, where they still exist."""
    for folder in (path, path.parent):
        if (folder / PROVENANCE).is_file():
            for entry in json.loads((folder / PROVENANCE).read_text(encoding="utf-8")).get("inputs", ()):
                if _exists(str(entry["address"])):
                    yield from open_place(str(entry["address"]))
            return


def _graphs_beside(layers: Iterable[Layer]) -> list[ObjectLayer]:
    """Find the graphs that segmentations left in the groups of some datasets."""
    folders = [Path(address.container, *address.dataset.split("/")[:-1], "graph") for address in map(_address, layers)]
    return [graph for folder in dict.fromkeys(folders) if folder.is_dir() for graph in find_objects(folder)]


def places_to_paint(path: Path) -> dict[str, NanometreRoi]:
    """Return the places of a round of bootstrapping by rank and error: of ``places.csv``, or the folder it is in."""
    table = path / PLACES if path.is_dir() else path
    if table.name != PLACES or not table.is_file():
        return {}
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    boxes = {}
    for row, address in zip(rows, _crops_of(path, "labels"), strict=True):
        crop = open_volume(address, allow_incomplete=True)
        boxes[f"place {row['rank']}, error {row['error']}"] = _in_nm(crop.roi, crop.require_voxel_size())
    return boxes


def _crops_of(path: Path, name: str) -> list[Address]:
    folder = path if path.is_dir() else path.parent
    ranks = [int(row["rank"]) for row in csv.DictReader(io.StringIO((folder / PLACES).read_text(encoding="utf-8")))]
    return [locate(folder / "crops.zarr", f"place_{rank:02d}/{name}") for rank in ranks]


def _address(layer: Layer) -> Address:
    return layer.served.finest.address


def arranged(layers: Sequence[Layer]) -> list[Layer]:
    """Return layers with raw below the others; of many, only the first raw and the first labels begin visible."""
    ordered = sorted(layers, key=lambda layer: layer.meaning != "raw")
    if len(ordered) <= SHOWN_AT_FIRST:
        first_raw = next((layer for layer in ordered if layer.meaning == "raw"), None)
        return [replace(layer, visible=layer.meaning != "raw" or layer is first_raw) for layer in ordered]
    first = {layer.meaning: layer for layer in reversed(ordered)}
    return [replace(layer, visible=layer in (first.get("raw"), first.get("labels"))) for layer in ordered]


def scene_of_data_config(
    paths: Sequence[Path], data_directory: Path | None = None, context: int = 47, only_container: str | None = None
) -> Scene:
    """Return the volumes of data configurations with their regions as boxes.

    Args:
        paths: JSON files; all entries have to be in one container.
        data_directory: Folder that the containers are relative to.
        context: Voxels that a network reads around its output; the second box of each region is smaller by them.
        only_container: Container of the entries to show, or the end of its path; needed where there are several.

    Raises:
        InputError: The entries lie in several containers, none in that one, or names occur twice.
        ConfigError: A file is not valid.
    """
    entries = [entry for path in paths for entry in load_data_config(path, data_directory).entries]
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Two entries are called {twice[0]}: rename one of them.")
    containers = sorted({str(entry.file) for entry in entries})
    if only_container is not None:
        ending = f"/{only_container.strip('/')}"
        entries = [entry for entry in entries if entry.file.as_posix().endswith(ending)]
        if not entries:
            raise InputError(f"No entry is in {only_container}: choose one of {', '.join(containers)}.")
    elif len(containers) > 1:
        raise InputError(
            f"The entries lie in {counted(len(containers), 'container')}: choose one with --only_cell, "
            f"of {', '.join(containers)}."
        )
    return _scene_of_entries(entries, context)


def _scene_of_entries(entries: Sequence[DataEntry], context: int) -> Scene:
    regions, inner, volumes = {}, {}, {}
    for entry in entries:
        raw = open_volume(entry.file, entry.raw, allow_incomplete=True)
        roi = region_of(entry, raw)
        regions[entry.name] = _in_nm(roi, entry.voxel_size)
        smaller = roi.grow(*[tuple(-min(context, (size - 1) // 2) for size in roi.shape)] * 2)
        inner[f"{entry.name} without context"] = _in_nm(smaller, entry.voxel_size)
        masks = [entry.mask] if entry.mask else []
        for dataset in (entry.raw, *entry.labels, *masks, *entry.metric_masks):
            volumes[dataset] = locate(entry.file, dataset)
    layers = arranged([open_layer(address) for address in volumes.values()])
    return Scene(
        layers,
        boxes={"regions": regions, f"regions without {context} voxels": inner},
        region=_around(list(regions.values())),
    )


def region_of(entry: DataEntry, raw: Volume) -> Roi:
    """Return the region of an entry in absolute voxels; without offset and shape, the whole raw volume."""
    begin = raw.roi.begin if entry.offset is None else Roi(entry.offset, (1, 1, 1)).begin
    return Roi(begin, raw.roi.end - begin if entry.shape is None else entry.shape)


def _in_nm(roi: Roi, voxel_size: Sequence[float]) -> NanometreRoi:
    return NanometreRoi(nanometres(roi.begin, voxel_size), nanometres(roi.shape, voxel_size))


def _around(regions: Sequence[NanometreRoi]) -> NanometreRoi:
    begin = np.min([region.offset for region in regions], axis=0)
    end = np.max([np.add(region.offset, region.shape) for region in regions], axis=0)
    return NanometreRoi(tuple(begin.tolist()), tuple((end - begin).tolist()))


def comparison_scene(
    raw: Address,
    labels: Sequence[Address],
    series: Sequence[Sequence[Address]],
    names: Sequence[Sequence[str]],
    plane: Plane = "xy",
    shader: Shader = "heatmap",
) -> Scene:
    """Return a grid of views that move together: raw and labels first, then a row of each series of predictions.

    Args:
        raw: Below everything.
        labels: Ground truth, in the first row.
        series: Datasets of predictions, one row each.
        names: Names of the predictions' layers, in the same order.
        plane: What all views show.
        shader: Look of the predictions.
    """
    layers = [open_layer(raw), *(open_layer(one) for one in labels)]
    grid: list[list[list[int]]] = [[list(range(len(layers)))]]
    for row, called in zip(series, names, strict=True):
        views = []
        for address, name in zip(row, called, strict=True):
            views.append([0, len(layers)])
            layer = open_layer(address, shader)
            layers.append(
                replace(layer, name=name, meaning="probabilities" if layer.meaning == "raw" else layer.meaning)
            )
        grid.append(views)
    return Scene(layers, grid=grid, plane=plane)


def prediction_address(file: str, prefix: str, iteration: str, suffix: str) -> Address:
    """Return the dataset of a prediction named as incasem does: ``prefix/iteration/suffix`` in a container."""
    return locate(file, join(join(prefix, iteration), suffix))
