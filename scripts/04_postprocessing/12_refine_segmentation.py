"""Refine a segmentation: filter objects, remap or merge them, morphology, fill holes; stored as a run."""

import argparse
from pathlib import Path

from incasem_like.commands.stage import add_run_flags, read_flags, run_options
from incasem_like.terminal import at_least, report_written, run_script, script_parser, shell_command

OPERATIONS = ("filter", "remap", "erode", "dilate", "open", "close", "fill_holes")

parser = script_parser("Filter, remap, merge or smooth the objects of a segmentation; --dry_run only reports.")
add = parser.add_argument
add("operation", choices=OPERATIONS, help="what to do")
add("-s", "--segmentation", required=True, metavar="ZARR/DS", help="instance labels, 0 = background")
add("-o", "--output", metavar="ZARR/DS", help="refined labels to write")
add("--dry_run", action="store_true", help="report what would be removed, and write nothing")
add("--removed", type=Path, metavar="CSV", help="list the removed objects in this file")
add("--min_size", type=int, help="filter: smallest object that remains, voxels")
add("--max_size", type=int, help="filter: largest object that remains, voxels")
add("--outliers", type=float, metavar="N", help="filter: remove sizes beyond the mean +- N standard deviations")
add("--min_sections", type=int, help="filter: remove objects that extend over fewer sections")
add("--remap", metavar="CSV", help="remap: rows of id,new_id; 0 removes")
add("--merge", metavar="CSV", help="remap: each row lists ids that become one object")
add("--steps", type=int, help="erode, dilate, open, close: layers of voxels; by default 1")
add("--in_plane", action="store_true", help="erode, dilate, open, close: within sections only")
add("--most_removed", type=float, default=0.5, help="stop if a larger share of labelled voxels would be removed")
add("--block_shape", type=at_least(1), nargs=3, default=(128, 256, 256), metavar=("Z", "Y", "X"), help="voxels at once")
add_run_flags(parser, "replace an output that was made with other options")


def main(arguments: argparse.Namespace) -> None:
    """Refine, and print the report and what was written."""
    from incasem_like.disk import check_output_file
    from incasem_like.errors import InputError
    from incasem_like.segmentation.refinement_run import Refinement, refine_as_run

    if arguments.dry_run:
        arguments.output = None
    elif arguments.output is None:
        raise InputError("Name what to write with --output, or give --dry_run, which writes nothing.")
    if arguments.removed is not None:
        check_output_file(arguments.removed)
    options = run_options(arguments, "segmentations")
    result = refine_as_run(read_flags(Refinement, arguments), removed_list=arguments.removed, **options)
    for name, value in result.get("report", {}).items():
        counts = ", ".join(f"{count} {what}" for what, count in value.items()) if isinstance(value, dict) else value
        print(f"{name.replace('_', ' ')}: {counts}")
    if "address" in result:
        measure = "scripts/04_postprocessing/25_measure_objects.py"
        following = shell_command("python", measure, "-s", result["address"], "-o", "YOUR_FOLDER")
        report_written("segmentation", result["address"], following, already="report" not in result)


if __name__ == "__main__":
    run_script(main, parser)
