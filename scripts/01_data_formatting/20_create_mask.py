#!/usr/bin/env python
"""Mask the specimen: 1 inside, 0 in empty resin."""

import argparse
import json

from incasem_like.terminal import add_worker_flags, at_least, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Mask the specimen (1) against empty resin (0) by grey values, smoothed, without small objects.")
add = parser.add_argument
add("-f", "--filename", required=True, help="Zarr or N5 container, read and written")
add("-d", "--dataset", required=True, help="grey values")
add("-o", "--out_dataset", default="volumes/mask", help="mask to write, uint8")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks of the result, voxels")
add("--min_gray_value", type=float, default=2, help="the specimen is brighter than this")
add("--max_gray_value", type=float, default=180, help="the specimen is darker than this")
add("--hole_size", type=at_least(0), default=100_000, help="holes with fewer voxels are filled")
add("--object_size", type=at_least(0), default=100_000, help="objects with fewer voxels are removed")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace an existing result")


def main(arguments: argparse.Namespace) -> None:
    """Mask the blocks that are not done yet."""
    from incasem_like.formatting.derive import Derivation
    from incasem_like.formatting.foreground_mask import create_mask

    written = create_mask(
        Derivation.from_arguments(arguments),
        minimum=arguments.min_gray_value,
        maximum=arguments.max_gray_value,
        hole_size=arguments.hole_size,
        object_size=arguments.object_size,
    )
    written.report("the mask", f'name it as "mask": {json.dumps(arguments.out_dataset)} of a data configuration')


if __name__ == "__main__":
    run_script(main, parser)
