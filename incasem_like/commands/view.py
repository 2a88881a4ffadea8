"""``incasem-like view``, and the scripts that show data configurations and predictions in neuroglancer."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from incasem_like.commands.links import offer_link
from incasem_like.commands.options import StoreChoice, kind_option, read_reference, store_options
from incasem_like.disk import write_whole
from incasem_like.errors import InputError
from incasem_like.terminal import report_written, shown_path
from incasem_like.viewing.layers import SHADERS
from incasem_like.viewing.opening import places_of_run, scene_of_data_config, scene_of_places
from incasem_like.viewing.scene import Plane, Scene
from incasem_like.viewing.screenshot import take_screenshot


@dataclass(frozen=True)
class Showing:
    """How a scene is shown.

    Attributes:
        browser: Whether to open a browser.
        serve: Whether other machines may connect.
        port: TCP port; 0 takes a free one.
        screenshot: PNG to write instead of waiting.
        export: JSON file for neuroglancer's state.
    """

    browser: bool = True
    serve: bool = False
    port: int = 0
    screenshot: Path | None = None
    export: Path | None = None


def show(scene: Scene, showing: Showing, wait: Callable[[], object] | None = None) -> None:
    """Serve a scene and print its link, until ctrl-C; or write its picture.

    Args:
        scene: What to show.
        showing: How.
        wait: Called in place of waiting for ctrl-C.

    Raises:
        InputError: The port is in use, or no browser was found for the picture.
    """
    from incasem_like.viewing.server import serving  # neuroglancer would slow ``--help`` down

    with serving(scene, showing.port, public=showing.serve) as link:
        if showing.export is not None:
            state = scene.state(link.partition("#!")[2].removesuffix("/state.json"))
            write_whole(showing.export, lambda file: file.write(json.dumps(state, indent=1).encode()))
            report_written("the state of the view", shown_path(showing.export))
        if showing.screenshot is not None:
            take_screenshot(link, showing.screenshot)
            report_written("the picture", shown_path(showing.screenshot))
            return
        for number, place in enumerate(scene.places, 1):
            print(f"{place}: {link.removesuffix('.json')}-{number}.json")
        offer_link(link, browser=showing.browser, public=showing.serve, wait=wait)


@click.command("view")
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@click.option("--dataset", "datasets", multiple=True, metavar="DS", help="Show only this dataset; repeatable.")
@click.option(
    "--plane", type=click.Choice(get_args(Plane)), default="4panel", show_default=True, help="Planes to show."
)
@click.option("--shader", type=click.Choice(SHADERS), default="default", help="How images look.")
@click.option("--data", metavar="DIR", type=Path, help="Folder of the containers of a data configuration.")
@click.option("--context", default=47, show_default=True, help="Voxels around a network's output, for the boxes.")
@click.option("--no_browser", "--no-browser", "-n", is_flag=True, help="Only print the link.")
@click.option("--serve", is_flag=True, help="Let other machines connect; the link holds a secret.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="TCP port; by default a free one.")
@click.option("--screenshot", metavar="PNG", type=Path, help="Write a picture and end; needs Chromium, no display.")
@click.option("--export", metavar="JSON", type=Path, help="Write the view as neuroglancer's state too.")
@kind_option
@store_options
def view(
    places: Sequence[str],
    datasets: Sequence[str],
    plane: Plane,
    shader: Any,
    data: Path | None,
    context: int,
    no_browser: bool,
    serve: bool,
    port: int,
    screenshot: Path | None,
    export: Path | None,
    kind: str,
    stores: StoreChoice,
) -> None:
    """Show volumes in neuroglancer.

    PLACE is a container, a dataset or group in it, a folder of snapshots, a data configuration (JSON), or a run: its
    id, 12, or kind and id, predictions/12. What is shown is read while you look; nothing is copied.
    """

    configurations = [Path(place) for place in places if place.lower().endswith(".json")]
    if configurations and len(configurations) < len(places):
        raise InputError("Data configurations are shown by themselves: name only JSON files, or none.")
    if configurations:
        scene = scene_of_data_config(configurations, data, context)
    else:
        scene = scene_of_places(find_places(places, kind, stores, datasets), plane, shader)
    show(scene, Showing(not no_browser, serve, port, screenshot, export))


def find_places(places: Sequence[str], kind: str, stores: StoreChoice, datasets: Sequence[str] = ()) -> list[str]:
    """Return the addresses that the arguments PLACE name: those of runs for their ids, others as they are.

    Args:
        places: Paths and references of runs.
        kind: Kind of runs that are named by their number alone.
        stores: Where runs are looked for.
        datasets: Datasets of each place that is not a run; empty for all.
    """

    named: list[str] = []
    for place in places:
        reference = None if os.path.exists(place) else read_reference(place)
        if reference is None:
            named += [f"{place}/{dataset}" for dataset in datasets] or [place]
        else:
            named += places_of_run(reference.get(stores, kind))
    return named


def show_from_script(scene: Scene, arguments: argparse.Namespace) -> None:
    """Show a scene with the flags of ``add_showing_flags``, until ENTER."""
    wait = (lambda: input("Press ENTER to end.")) if sys.stdin.isatty() else None
    show(scene, Showing(not arguments.no_browser, arguments.serve, arguments.port, arguments.screenshot), wait)


def add_showing_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how a scene is shown."""
    group = parser.add_argument_group("the viewer")
    group.add_argument("-n", "--no_browser", "--no-browser", action="store_true", help="only print the link")
    group.add_argument("--serve", action="store_true", help="let other machines connect; the link holds a secret")
    group.add_argument("--port", type=int, default=0, metavar="N", help="TCP port; by default a free one")
    group.add_argument("--screenshot", type=Path, metavar="PNG", help="write a picture and end; needs Chromium")
