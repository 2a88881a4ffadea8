"""``incasem-like figure``: pictures and movies of sections, and pictures of objects in three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from incasem_like.commands.options import StoreChoice, kind_option, store_options
from incasem_like.commands.view import find_places
from incasem_like.errors import InputError
from incasem_like.terminal import report_written, shown_path
from incasem_like.viewing.objects import PrecomputedShapes, find_objects
from incasem_like.viewing.opening import scene_of_places
from incasem_like.viewing.sections import MOVIES, PICTURES, SectionView, write_movie, write_picture
from incasem_like.volumes import Roi, open_volume

if TYPE_CHECKING:
    from PIL import Image

AXES = {"xy": 0, "xz": 1, "yz": 2}


@click.command("figure")
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", type=Path, required=True, help=".png .tif .jpg .pdf, or .gif .mp4.")
@click.option("--plane", type=click.Choice(list(AXES)), default="xy", show_default=True, help="Plane of the sections.")
@click.option("--section", type=int, metavar="N", help="Section of a picture, in absolute voxels; default: the middle.")
@click.option("--first", type=int, metavar="N", help="First section of a movie; default: the first one.")
@click.option("--last", type=int, metavar="N", help="Last section of a movie; default: the last one.")
@click.option("--step", type=click.IntRange(1), default=1, show_default=True, help="Every so many sections of a movie.")
@click.option("--fps", type=click.FloatRange(0.1, 100), default=10, show_default=True, help="Sections per second.")
@click.option("--offset", type=int, nargs=3, metavar="Z Y X", help="First voxel to show, absolute.")
@click.option("--shape", type=int, nargs=3, metavar="Z Y X", help="Voxels to show, with --offset.")
@click.option("--width", type=click.IntRange(16, 8192), default=800, show_default=True, help="Pixels, at most.")
@click.option("--opacity", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of labels and masks.")
@click.option("--beside", is_flag=True, help="Every layer in a panel of its own, above the first one.")
@click.option("--scale_bar", type=click.FloatRange(0), metavar="NM", help="Length of the scale bar; 0 for none.")
@click.option("--objects", metavar="IDS", help="Draw these objects in 3-D: ids with commas, or all (the 100 largest).")
@click.option(
    "--direction",
    type=float,
    nargs=2,
    metavar="TURN TILT",
    default=(30, 25),
    show_default=True,
    help="Of the look at objects, degrees: turned about y, and from above; 0 0 looks along z.",
)
@kind_option
@store_options
def figure(
    places: Sequence[str],
    output: Path,
    plane: str,
    section: int | None,
    first: int | None,
    last: int | None,
    step: int,
    fps: float,
    offset: tuple[int, int, int] | None,
    shape: tuple[int, int, int] | None,
    width: int,
    opacity: float,
    beside: bool,
    scale_bar: float | None,
    objects: str | None,
    direction: tuple[float, float],
    kind: str,
    stores: StoreChoice,
) -> None:
    """Write a section, or a movie through all sections, of some volumes; or objects in three dimensions.

    PLACE is a dataset, a container or group with several, or a run, as for ``incasem-like view``. The first one is
    shown as grey values; labels, probabilities and masks are painted over it, wherever they are in nm. With --objects,
    PLACE is a dataset of labels, or a folder of meshes as 35_extract_meshes.py writes it.
    """

    suffix = output.suffix.lower()
    if suffix not in (*PICTURES, *MOVIES):
        raise InputError(f"{output} has an unknown suffix: choose one of {', '.join((*PICTURES, *MOVIES))}.")
    if (offset is None) != (shape is None):
        raise InputError("--offset and --shape belong together: give both, or neither.")
    if suffix in MOVIES and section is not None:
        raise InputError("--section is for pictures: give --first and --last for a movie.")
    if suffix in PICTURES and (first, last) != (None, None):
        raise InputError("--first and --last are for movies: give --section for a picture.")
    roi = Roi(offset, shape) if offset and shape else None
    if objects is not None:
        if suffix in MOVIES or len(places) > 1 or section is not None:
            raise InputError(
                "--objects makes a picture of one PLACE: leave --section out, and name a .png, .tif or .pdf."
            )
        write_picture(picture_of_objects(places[0], objects, roi, direction, width, scale_bar), output)
        report_written("the picture", shown_path(output))
        return
    view = SectionView(
        scene_of_places(find_places(places, kind, stores)).layers, AXES[plane], roi, width, opacity, beside, scale_bar
    )
    begin, end = view.box.begin[view.axis], view.box.end[view.axis]
    if suffix in PICTURES:
        write_picture(view.image((begin + end) // 2 if section is None else section), output)
        report_written("the picture", shown_path(output))
        return
    numbers = range(begin if first is None else first, end if last is None else last + 1, step)
    if not numbers:
        raise InputError(f"There are no sections from {first} to {last}: choose --first below --last.")
    write_movie(view, numbers, output, fps)
    report_written(f"the movie of {len(numbers)} sections", shown_path(output))


def picture_of_objects(
    place: str, objects: str, roi: Roi | None, direction: tuple[float, float], width: int, scale_bar: float | None
) -> Image.Image:
    """Return a picture of objects, see ``--objects`` of ``figure``.

    Raises:
        InputError: An id is not a whole number from 1, or a folder of meshes has a part.
        DataError: An object is not there.
    """
    from incasem_like.viewing.objects_figure import ObjectView, meshes_of_folder, meshes_of_labels

    texts = [text.strip() for text in objects.split(",")]
    if texts != ["all"] and not all(text.isdigit() and int(text) for text in texts):
        raise InputError(f"--objects is {objects}: give ids from 1 with commas between them, such as 7,12, or all.")
    ids = None if texts == ["all"] else sorted({int(text) for text in texts})
    folders = [one.folder for one in find_objects(Path(place)) if isinstance(one, PrecomputedShapes)]
    if folders and roi is not None:
        raise InputError("--offset and --shape choose a part of labels, not of meshes: leave them out.")
    meshes = meshes_of_folder(folders[0], ids) if folders else meshes_of_labels(open_volume(place), ids, roi)
    return ObjectView(meshes, *direction, width, scale_bar).image()
