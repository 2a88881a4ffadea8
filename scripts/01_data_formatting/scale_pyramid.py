#!/usr/bin/env python
"""Add smaller copies of a volume, for viewers."""

import argparse

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Make a volume the level s0 of a group with smaller copies s1, s2 ..., for viewers (OME-NGFF).")
add = parser.add_argument
add("-f", "--file", required=True, help="Zarr or N5 container, read and written")
add("-d", "--ds", required=True, help="volume; afterwards its data are at DS/s0, unless -o is given")
add("-o", "--out_dataset", help="write the group there, with a copy of the volume as its s0")
add(
    "-s",
    "--scales",
    nargs="*",
    metavar="FACTOR",
    help="factor of each level relative to the one before: 2, or z,y,x as 1,2,2; by default 2 along the axes with the "
    "shortest voxels, until a level fits into one block",
)
add("-c", "--chunk_shape", type=int, nargs=3, metavar=ZYX, help="chunks, voxels; by default those of the volume")
add("--method", choices=("auto", "mean", "mode"), default="auto", help="mean of intensities, mode of labels")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace existing smaller copies")


def main(arguments: argparse.Namespace) -> None:
    """Write the levels that are not done yet."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.formatting.derive import Derivation
    from incasem_like.formatting.pyramid import make_pyramid, parse_factors

    derivation = Derivation(
        arguments.file,
        arguments.ds,
        arguments.out_dataset or "",
        tuple(arguments.chunk_shape) if arguments.chunk_shape else None,
        arguments.num_workers,
        arguments.overwrite,
        given_workers(arguments),
    )
    factors = [parse_factors(text) for text in arguments.scales] if arguments.scales else None
    for written in make_pyramid(
        derivation, factors=factors, method=arguments.method, in_place=not arguments.out_dataset
    ):
        written.report("a level", None)


if __name__ == "__main__":
    run_script(main, parser)
