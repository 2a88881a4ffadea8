#!/usr/bin/env python
"""Generate synthetic optic-lobe volumes with ground truth."""

import argparse
from pathlib import Path

from incasem_like.terminal import add_worker_flags, run_script, script_parser

parser = script_parser("Generate synthetic optic-lobe volumes: raw, one label per column, and the mask of all columns.")
parser.add_argument(
    "-o", "--output", type=Path, required=True, help="folder or .zarr container; several volumes get _000, _001 ..."
)
parser.add_argument("--format", choices=("tiff", "zarr"), help="output format; default: zarr for a .zarr, else tiff")
parser.add_argument("--shape", type=int, nargs=3, default=(128, 128, 128), metavar=("Z", "Y", "X"), help="voxels")
parser.add_argument(
    "--voxel_size", type=float, nargs=3, default=(500.0, 500.0, 500.0), metavar=("Z", "Y", "X"), help="nanometres"
)
parser.add_argument("--seed", type=int, default=0, help="random seed; same volumes with any number of workers")
parser.add_argument("--num_volumes", type=int, default=1, help="volumes to generate, each different")
add_worker_flags(parser)
parser.add_argument(
    "--recipe",
    choices=("clear", "original"),
    default="clear",
    help="clear: a small network learns it in minutes; original: as published, columns without dye labelled",
)
parser.add_argument("--overwrite", action="store_true", help="replace volumes made there with other parameters")


def main(arguments: argparse.Namespace) -> None:
    """Generate the missing volumes and print the next command."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.synthetic import OpticLobeParameters
    from incasem_like.synthetic.family import make_volumes
    from incasem_like.synthetic.writing import order_volumes

    workers = given_workers(arguments)
    orders = order_volumes(
        arguments.output,
        arguments.format or ("zarr" if arguments.output.suffix == ".zarr" else "tiff"),
        tuple(arguments.shape),
        voxel_size=tuple(arguments.voxel_size),
        seed=arguments.seed,
        num_volumes=arguments.num_volumes,
        parameters=OpticLobeParameters() if arguments.recipe == "original" else OpticLobeParameters.clear(),
    )
    options = {"num_workers": arguments.num_workers, "workers": workers, "overwrite": arguments.overwrite}
    for made in make_volumes(orders, **options):
        print(f"{'Already complete' if made.already_complete else 'Wrote'}: {made.output}, {made.columns} columns")
    print(f"Next: {orders[0].next_command}")


if __name__ == "__main__":
    run_script(main, parser)
