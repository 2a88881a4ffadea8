"""``incasem-like paint``: labels of a crop, painted in napari and saved where trainings and rounds find them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from incasem_like.commands.options import StoreChoice, read_reference, store_options
from incasem_like.errors import InputError
from incasem_like.terminal import counted, shell_command


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
    from incasem_like.commands import painting  # numpy and pydantic would slow ``--help`` down

    window = painting.load_window()  # before a crop is made
    reference = None if os.path.exists(crop) else read_reference(crop)
    if reference is not None:
        crop = painting.place_of_round(reference.get(stores, "bootstrapping").result, crop, place)
    if raw is not None and offset is not None and shape is not None:
        painting.make_crop(crop, raw, offset, shape, margin)
    target, layers = painting.layers_of_crop(crop, over)

    def save(labels: Any) -> None:
        if changed := target.save(labels):
            print(f"Saved {counted(changed, 'changed voxel')}: {target.container}/{target.group}/labels", flush=True)

    window.paint(layers, save, crop)
    if reference is not None:
        command = shell_command("python", "bootstrap.py", "--continue", reference.id, "with", "round.yaml")
        print(f"Next: paint another --place, or in scripts/05_bootstrapping {command}")
    elif "mask" in {data[1]["name"].rpartition("/")[2] for data in layers}:
        names = [f"{target.group}/{name}" for name in ("raw", "labels", "mask")]
        flags = ["-f", target.container, "-r", names[0], "-l", names[1], "--mask", names[2], "-o", "my_train.json"]
        print(f"Next: {shell_command('python', 'scripts/01_data_formatting/make_data_config.py', *flags)}")
