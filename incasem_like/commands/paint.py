"""``incasem-like paint``: labels of a crop, painted in napari and saved where trainings and rounds find them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from incasem_like.commands.options import StoreChoice, read_reference, store_options
from incasem_like.errors import InputError
from incasem_like.terminal import counted, report_written, shell_command

if TYPE_CHECKING:
    from incasem_like.bootstrapping.places import PaintedCrop
    from incasem_like.viewing.layers import Layer
    from incasem_like.viewing.napari_layers import LayerData


@click.command("paint")
@click.argument("crop", metavar="CROP")
@click.option("--raw", metavar="VOLUME", help="Make the crop first, of this raw volume.")
@click.option("--offset", type=int, nargs=3, metavar="Z Y X", help="First voxel of the new crop, absolute.")
@click.option("--shape", type=click.IntRange(1), nargs=3, metavar="Z Y X", help="Voxels of the new crop.")
@click.option(
    "--margin", type=click.IntRange(0), nargs=3, default=(0, 0, 0), metavar="Z Y X", help="Voxels of raw around it."
)
@click.option("--over", multiple=True, metavar="PLACE", help="Show this volume too, such as a prediction; repeatable.")
@click.option("--place", type=click.IntRange(1), default=1, show_default=True, help="Rank of the place of a round.")
@store_options
def paint(
    crop: str,
    raw: str | None,
    offset: tuple[int, int, int] | None,
    shape: tuple[int, int, int] | None,
    margin: tuple[int, int, int],
    over: Sequence[str],
    place: int,
    stores: StoreChoice,
) -> None:
    """Paint labels of a crop in napari.

    CROP is a group with raw and labels, such as cell.zarr/crops/a, or a round of bootstrapping, bootstrapping/3, of
    which --place is painted. With --raw, --offset and --shape the group is made first. Ctrl-S saves the labels, and so
    does closing the window.
    """
    if (raw is None, offset is None, shape is None) not in ((True,) * 3, (False,) * 3):
        raise InputError("--raw, --offset and --shape make a new crop: give all three, or none of them.")
    from incasem_like.viewing.napari_layers import load_napari
    from incasem_like.viewing.napari_layers import paint as open_window

    load_napari()  # before a crop is made
    reference = None if os.path.exists(crop) else read_reference(crop)
    if reference is not None:
        crop = place_of_round(reference.get(stores, "bootstrapping").result, crop, place)
    if raw is not None and offset is not None and shape is not None:
        make_crop(crop, raw, offset, shape, margin)
    target, layers = layers_of_crop(crop, over)

    def save(labels: Any) -> None:
        if changed := target.save(labels):
            print(f"Saved {counted(changed, 'changed voxel')}: {target.container}/{target.group}/labels", flush=True)

    open_window(layers, save, crop)
    if reference is not None:
        command = shell_command("python", "bootstrap.py", "--continue", reference.id, "with", "round.yaml")
        print(f"Next: paint another --place, or in scripts/05_bootstrapping {command}")
    elif "mask" in {data[1]["name"].rpartition("/")[2] for data in layers}:
        names = [f"{target.group}/{name}" for name in ("raw", "labels", "mask")]
        flags = ["-f", target.container, "-r", names[0], "-l", names[1], "--mask", names[2], "-o", "my_train.json"]
        print(f"Next: {shell_command('python', 'scripts/01_data_formatting/make_data_config.py', *flags)}")


def place_of_round(result: Any, name: str, place: int) -> str:
    """Return the group of a place to paint of a round.

    Raises:
        InputError: The round has no places, or not that many.
    """
    from incasem_like.bootstrapping.places import CROPS

    folder = result.get("places") if isinstance(result, dict) else None
    if not folder:
        raise InputError(f"Run {name} has no places to paint: name a finished round, or a crop.")
    group = Path(folder) / CROPS / f"place_{place:02d}"
    if not group.exists():
        raise InputError(f"Run {name} has no place {place} ({group}): see {Path(folder) / 'places.csv'}.")
    return str(group)


def make_crop(crop: str, raw: str, offset: Sequence[int], shape: Sequence[int], margin: Sequence[int]) -> None:
    """Make the group of a new crop, or find that it is there already.

    Raises:
        InputError: The address is not inside a container, or another crop is there.
        DataError: As ``create_crop``.
    """
    from incasem_like.formatting.crops import create_crop
    from incasem_like.formatting.derive import Derivation
    from incasem_like.volumes import parse_address

    address = parse_address(str(Path(crop).absolute()))
    if not address.dataset:
        raise InputError(f"{crop} is not a group in a container: name one, such as cell.zarr/crops/a.")
    derivation = Derivation("", "", address.dataset, (64, 64, 64), 1, out_container=address.container)
    written = create_crop(raw, derivation, offset=offset, shape=shape, margin=margin)
    report_written("the crop", crop, already=all(one.already_complete for one in written))


def layers_of_crop(crop: str, over: Sequence[str]) -> tuple[PaintedCrop, list[LayerData]]:
    """Return a crop, and its layers for napari: raw below, then further volumes, the labels to paint above.

    Args:
        crop: Address of the group.
        over: Further volumes, of which the part in the crop is shown.

    Raises:
        DataError: The group has no labels, or a volume cannot be read.
    """
    from incasem_like.bootstrapping.places import PaintedCrop
    from incasem_like.viewing.napari_layers import PAINTED, layer_data
    from incasem_like.viewing.opening import open_layer, open_place
    from incasem_like.volumes import NanometreRoi, dataset_exists
    from incasem_like.volumes.opening import locate

    address = locate(crop)
    if not dataset_exists(address.container, f"{address.dataset}/labels"):
        raise InputError(
            f"{crop} has no dataset 'labels' to paint: name a crop, or make one with --raw, --offset and --shape."
        )
    target = PaintedCrop(address.container, address.dataset)
    labels = replace(open_layer(target.labels().address), name=PAINTED, meaning="labels", visible=True)
    found: list[Layer] = []
    further = [layer for place in over for layer in open_place(place)]
    box = None
    for layer in open_place(crop):
        name = layer.name.rpartition("/")[2]
        if name == "raw":
            volume = layer.served.finest
            size = volume.require_voxel_size()
            sides = tuple(count * nm for count, nm in zip(volume.shape, size, strict=True))
            box = NanometreRoi(volume.offset, sides)
            found.insert(0, replace(layer, name=name, meaning="raw"))
        elif name != "labels":
            found.append(replace(layer, name=name, visible=name != "mask"))
    data = [one for layer in found for one in layer_data(layer)]
    data += [one for layer in further for one in layer_data(layer, box)]
    return target, [*data, *layer_data(labels)]
