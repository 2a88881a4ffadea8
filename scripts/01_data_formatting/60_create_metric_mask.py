#!/usr/bin/env python
"""Mask the voxels near object boundaries, which scores should leave out."""

import argparse
import json

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Mask the voxels near object boundaries (0), which scores should leave out; all others are 1.")
add = parser.add_argument
add("-f", "--filename", required=True, help="Zarr or N5 container, read and written")
add("-d", "--dataset", required=True, help="labels, 0 = no object")
add("-o", "--out_dataset", required=True, help="mask to write, such as volumes/metric_masks/mito; uint8")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks of the result, voxels")
add("--exclude_voxels_outwards", type=int, default=4, help="voxels excluded around objects; 0 = none")
add("--exclude_voxels_inwards", type=int, default=4, help="voxels excluded inside objects; 0 = none")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace an existing result")


def main(arguments: argparse.Namespace) -> None:
    """Mask the blocks that are not done yet."""
    from incasem_like.errors import InputError
    from incasem_like.formatting.derive import Derivation, derive_volume
    from incasem_like.formatting.label_masks import metric_mask

    zone = {"outwards": arguments.exclude_voxels_outwards, "inwards": arguments.exclude_voxels_inwards}
    if min(zone.values()) < 0:
        raise InputError(f"The voxels to exclude are {list(zone.values())}, but cannot be below 0: give 0 or more.")
    derivation = Derivation.from_arguments(arguments)
    written = derive_volume(derivation, metric_mask, zone, context=max(zone.values()))
    name = json.dumps(arguments.out_dataset)
    written.report("the metric mask", f'name it in "metric_masks": [{name}] of a data configuration')


if __name__ == "__main__":
    run_script(main, parser)
