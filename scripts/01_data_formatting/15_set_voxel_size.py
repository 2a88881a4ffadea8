#!/usr/bin/env python
"""Set the voxel size and the offset of a volume."""

import argparse

from incasem_like.terminal import run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Set the voxel size and the offset of a volume in its metadata; no voxel is read or written.")
add = parser.add_argument
add("-f", "--filename", required=True, help="Zarr or N5 container")
add("-d", "--dataset", required=True, help="volume to change")
add("--voxel_size", type=float, nargs=3, metavar=ZYX, help="nanometres; unchanged by default")
add("--offset", type=int, nargs=3, metavar=ZYX, help="position of the first voxel, in voxels; unchanged by default")


def main(arguments: argparse.Namespace) -> None:
    """Change the metadata and print them."""
    from incasem_like.volumes import open_volume
    from incasem_like.volumes.multiscale import set_space

    volume = open_volume(arguments.filename, arguments.dataset, writable=True)
    set_space(volume, arguments.voxel_size, arguments.offset)
    print(f"{volume.address}: voxel size {list(volume.voxel_size or [])} nm, offset {list(volume.offset)} nm")


if __name__ == "__main__":
    run_script(main, parser)
