#!/usr/bin/env python
"""Generate EM-like tissue with ground truth: touching neurites with membranes, mitochondria and vesicles."""

import argparse
from pathlib import Path

from incasem_like.terminal import add_worker_flags, at_least, report_written, run_script, script_parser, shell_command

ZYX = ("Z", "Y", "X")
parser = script_parser("Generate EM-like tissue of any size: raw, instances of neurites, and a class for every voxel.")
add = parser.add_argument
add("-o", "--output", type=Path, required=True, help="container to write, .zarr or .n5")
add("--shape", type=int, nargs=3, default=(128, 256, 256), metavar=ZYX, help="voxels")
add("--voxel_size", type=float, nargs=3, default=(8.0, 8.0, 8.0), metavar=ZYX, help="nanometres")
add("--seed", type=at_least(0), default=0, help="random seed; the same volume with any chunks and number of workers")
add("--neurite_diameter", type=float, default=350, help="typical distance of neighbouring neurites, nanometres")
add("--noise", type=float, default=14, help="standard deviation of the noise, grey values")
add("--misalignment", type=float, default=0, help="standard deviation of a section's shift, voxels")
add("--missing_sections", type=float, default=0, help="share of sections that are missing in raw, 0 to 1")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks, voxels")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace a volume made there with other parameters")


def main(arguments: argparse.Namespace) -> None:
    """Generate the blocks that are missing and print the next command."""
    from pydantic import ValidationError

    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.errors import InputError
    from incasem_like.synthetic.tissue import TissueParameters
    from incasem_like.synthetic.tissue_volume import DATASETS, make_tissue

    names = ("neurite_diameter", "noise", "misalignment", "missing_sections")
    try:
        parameters = TissueParameters(**{name: getattr(arguments, name) for name in names})
    except ValidationError as error:
        wrong = error.errors()[0]
        raise InputError(f"--{wrong['loc'][0]} is {wrong['input']}: {wrong['msg']}.") from None
    done = make_tissue(
        arguments.output,
        tuple(arguments.shape),
        tuple(arguments.voxel_size),
        seed=arguments.seed,
        parameters=parameters,
        chunk_shape=tuple(arguments.chunk_shape),
        num_workers=arguments.num_workers,
        workers=given_workers(arguments),
        overwrite=arguments.overwrite,
    )
    words = ["select", "-f", arguments.output, "-d", DATASETS[2], "-o", "volumes/labels/mitochondria", "--ids", "2"]
    following = shell_command("python", "scripts/01_data_formatting/10_derive_volume.py", *words)
    if done:
        print(f"Already complete: {arguments.output}\nNext: {following}")
    else:
        report_written("the tissue", str(arguments.output), following)


if __name__ == "__main__":
    run_script(main, parser)
