#!/usr/bin/env python
"""Generate synthetic optic-lobe volumes with ground truth."""

import argparse
from pathlib import Path

from incasem_like.terminal import add_worker_flags, at_least, run_script, script_parser

parser = script_parser("Generate synthetic optic-lobe volumes: raw, one label per column, and the mask of all columns.")
add = parser.add_argument
add("-o", "--output", type=Path, required=True, help="folder, .zarr or .h5; several volumes get _000, _001 ...")
add("--format", choices=("tiff", "zarr", "h5", "images"), help="by default after the suffix, else tiff; h5: all "
    "volumes in one file, as the original generator writes them; images: 2-D images in one .h5")  # fmt: skip
add("--shape", type=int, nargs=3, default=(128, 128, 128), metavar=("Z", "Y", "X"), help="voxels; in a .h5 a cube")
add("--voxel_size", type=float, nargs=3, default=(500.0, 500.0, 500.0), metavar=("Z", "Y", "X"), help="nanometres")
add("--seed", type=at_least(0), default=0, help="random seed; same volumes with any number of workers")
add("--num_volumes", type=int, default=1, help="volumes to generate, each different")
add("--published", action="store_true", help="the sets of the original: 4 files of 512 volumes, and one of 64, in a "
    "folder; --seed is added to their seeds")  # fmt: skip
add_worker_flags(parser)
add("--recipe", choices=("clear", "original"), default="clear", help="clear: a small network learns it in minutes; "
    "original: as published, columns without dye labelled")  # fmt: skip
add("--overwrite", action="store_true", help="replace volumes made there with other parameters")


def main(arguments: argparse.Namespace) -> None:
    """Generate the missing volumes and print the next command."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.synthetic import OpticLobeParameters
    from incasem_like.synthetic.family import make_volumes
    from incasem_like.synthetic.legacy import make_files
    from incasem_like.synthetic.writing import order_volumes

    recipes = {"original": OpticLobeParameters, "clear": OpticLobeParameters.clear}
    form = arguments.format or {".zarr": "zarr", ".h5": "h5"}.get(arguments.output.suffix, "tiff")
    options = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    options["overwrite"] = arguments.overwrite
    if arguments.published or form in ("h5", "images"):
        make_files(
            arguments.output, form, arguments.published, arguments.num_volumes, tuple(arguments.shape), arguments.seed,
            recipes["original" if arguments.published else arguments.recipe](), **options,
        )  # fmt: skip
        return
    orders = order_volumes(
        arguments.output,
        form,
        tuple(arguments.shape),
        voxel_size=tuple(arguments.voxel_size),
        seed=arguments.seed,
        num_volumes=arguments.num_volumes,
        parameters=recipes[arguments.recipe](),
    )
    for made in make_volumes(orders, **options):
        print(f"{'Already complete' if made.already_complete else 'Wrote'}: {made.output}, {made.columns} columns")
    print(f"Next: {orders[0].next_command}")


if __name__ == "__main__":
    run_script(main, parser)
