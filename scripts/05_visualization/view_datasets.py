"""Show datasets of containers in neuroglancer, with the flags of incasem's command ``neuroglancer``."""

import argparse

from incasem_like.commands.view import add_showing_flags, show_from_script
from incasem_like.errors import InputError
from incasem_like.terminal import run_script, script_parser
from incasem_like.viewing.layers import SHADERS

parser = script_parser("Show datasets in neuroglancer; 'incasem-like view' does the same for anything, runs included.")
add = parser.add_argument
add("-f", "--file", action="append", default=[], metavar="ZARR", help="container; repeatable")
add(
    "-d", "--datasets", nargs="+", action="append", default=[], metavar="DS",
    help="datasets or groups of each --file in turn; of one that has none, all",
)  # fmt: skip
add("-g", "--graphs", nargs="+", default=[], metavar="DIR", help="folders of graphs, meshes or skeletons")
add("-s", "--shader", choices=SHADERS, default="default", help="how images look")
add_showing_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Show the datasets."""
    from incasem_like.viewing.opening import scene_of_places

    files, datasets = arguments.file, arguments.datasets
    if not files and not arguments.graphs:
        raise InputError("Nothing is named: give --file, or --graphs.")
    if len(datasets) > len(files):
        raise InputError(f"--datasets is given {len(datasets)} times, but --file {len(files)} times: once for each.")
    named = datasets + [[] for _ in files[len(datasets) :]]
    places = [f"{file}/{name}" for file, names in zip(files, named, strict=True) for name in names]
    places += [file for file, names in zip(files, named, strict=True) if not names]
    show_from_script(scene_of_places([*places, *arguments.graphs], shader=arguments.shader), arguments)


if __name__ == "__main__":
    run_script(main, parser)
