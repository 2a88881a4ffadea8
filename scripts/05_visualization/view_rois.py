"""Show the regions of data configurations as boxes in their volume."""

import argparse
from pathlib import Path

from incasem_like.commands.view import add_showing_flags, show_from_script
from incasem_like.terminal import at_least, run_script, script_parser

parser = script_parser("Show the regions of data configurations in neuroglancer, with and without context.")
add = parser.add_argument
add("-d", "--dataset_config", nargs="+", type=Path, required=True, metavar="JSON", help="data configurations")
add("-p", "--data_prefix", type=Path, metavar="DIR", help="folder of the containers; otherwise that of this machine")
add("--context", type=at_least(0), default=47, metavar="N", help="voxels that a network reads around its output")
add("-o", "--only_cell", metavar="ZARR", help="show only the entries of this container, as written in the JSON")
add_showing_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Show the boxes."""
    from incasem_like.viewing.opening import scene_of_data_config

    own = arguments
    show_from_script(scene_of_data_config(own.dataset_config, own.data_prefix, own.context, own.only_cell), arguments)


if __name__ == "__main__":
    run_script(main, parser)
