#!/usr/bin/env python
"""Equalise the histogram of a volume locally (3-D CLAHE), without seams between blocks."""

import argparse
import json

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Equalise the histogram of a volume locally (3-D CLAHE), without seams between blocks.")
add = parser.add_argument
add("-f", "--filename", required=True, help="Zarr or N5 container, read and written")
add(
    "-d",
    "--dataset",
    default="volumes/raw",
    help="grey values: uint8, uint16 or floats in [0, 1]; one channel as raw@c=1",
)
add("-o", "--out_dataset", default="volumes/raw_equalized_0.02", help="result, uint8")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks of the result, voxels")
add(
    "--kernel_size",
    type=int,
    nargs="+",
    default=[128],
    help="size of the neighbourhood of each histogram; 1 or 3 numbers, voxels",
)
add("--clip_limit", type=float, default=0.02, help="largest share of voxels in one grey bin; larger = more contrast")
add("--nbins", type=int, default=256, help="number of grey bins of a histogram")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace an existing result")


def main(arguments: argparse.Namespace) -> None:
    """Equalise the blocks that are not done yet."""
    from incasem_like.errors import InputError
    from incasem_like.formatting.derive import Derivation
    from incasem_like.formatting.equalize import equalize_histogram

    kernel = arguments.kernel_size * (3 if len(arguments.kernel_size) == 1 else 1)
    if len(kernel) != 3:
        raise InputError(f"--kernel_size takes one number or three (z y x), but got {len(kernel)}: give one or three.")
    derivation = Derivation.from_arguments(arguments)
    written = equalize_histogram(
        derivation, kernel=tuple(kernel), clip_limit=arguments.clip_limit, bins=arguments.nbins
    )
    name = json.dumps(arguments.out_dataset)
    written.report("the equalised volume", f'name it as "raw": {name} in a data configuration')


if __name__ == "__main__":
    run_script(main, parser)
