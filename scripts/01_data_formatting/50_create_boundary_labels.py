#!/usr/bin/env python
"""Turn instance labels into a class map of their boundaries."""

import argparse
import json

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Turn instance labels into a class map: 1 where instances meet another one or the background.")
add = parser.add_argument
add("-f", "--filename", required=True, help="Zarr or N5 container, read and written")
add("-d", "--dataset", required=True, help="instance labels, 0 = background")
add("-o", "--out_dataset", required=True, help="class map to write, such as volumes/labels/membrane; uint8")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks of the result, voxels")
add("--thickness", type=int, default=1, help="voxels marked on each side of a boundary")
add("--in_plane", action="store_true", help="compare neighbours within sections only (anisotropic volumes)")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace an existing result")


def main(arguments: argparse.Namespace) -> None:
    """Mark the blocks that are not done yet."""
    from incasem_like.errors import InputError
    from incasem_like.formatting.derive import Derivation, derive_volume
    from incasem_like.targets import boundary_labels

    if arguments.thickness < 1:
        raise InputError(f"--thickness is {arguments.thickness}, which marks nothing: give 1 or more voxels.")
    derivation = Derivation.from_arguments(arguments)
    parameters = {"thickness": arguments.thickness} | ({"axes": [1, 2]} if arguments.in_plane else {})
    written = derive_volume(derivation, boundary_labels, parameters, context=arguments.thickness, outside="reflect")
    name = json.dumps(arguments.out_dataset)
    written.report("the boundary labels", f'name them in "labels": {{{name}: 1}} of a data configuration')


if __name__ == "__main__":
    run_script(main, parser)
