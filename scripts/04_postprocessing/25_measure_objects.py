"""Measure every object of a segmentation: size, position, surface, contacts, mean intensity; stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, add_segmentation_flags, read_flags, report_run, run_options
from incasem_like.terminal import at_least, report_written, run_script, script_parser

parser = script_parser("Measure every object: size, bounding box, centre, surface, contacts, means of values.")
add_segmentation_flags(parser, "folder of the tables, CSV and Parquet")
add = parser.add_argument
add("--intensity", metavar="ZARR/DS", help="grey values whose mean is measured")
add("--probability", metavar="ZARR/DS", help="probabilities whose mean is measured; a channel as ZARR/DS@c=0")
add("--block_shape", type=at_least(1), nargs=3, metavar=("Z", "Y", "X"), help="voxels at once; by default chosen")
add_run_flags(parser, "replace tables that were made with other options")


def main(arguments: argparse.Namespace) -> None:
    """Measure, and print what was written."""
    from incasem_like.segmentation.measurement_run import Measurement, measure_as_run

    options = run_options(arguments, "measurements")
    result = measure_as_run(read_flags(Measurement, arguments), **options)
    if "objects" not in result:
        report_written("tables", result["folder"], already=True)
        return
    counts = f"{result['objects']} objects of {result['voxels']} voxels, {result['contacts']} contacts"
    report_written(f"tables ({counts})", result["folder"])
    report_run(result, options)


if __name__ == "__main__":
    run_script(main, parser)
