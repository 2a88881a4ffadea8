"""Extract the skeletons of objects with their lengths, as SWC and for neuroglancer; stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, add_segmentation_flags, read_flags, run_options
from incasem_like.terminal import at_least, report_written, run_script, script_parser

parser = script_parser("Extract the skeletons of objects by TEASAR: lengths, SWC files, neuroglancer.")
add_segmentation_flags(parser, "folder of the files")
add = parser.add_argument
add("--ids", type=at_least(1), nargs="+", metavar="ID", help="objects; by default all of --min_size")
add("--min_size", type=at_least(0), default=1000, help="leave out objects of fewer voxels")
add("--scale", type=float, default=1.5, help="a path covers its surroundings within this times its radius ...")
add("--constant", type=float, default=300.0, help="... plus this, nm; more leaves out more side branches")
add("--engine", choices=("bioimage-cpp", "kimimaro"), default="bioimage-cpp", help="kimimaro is GPL, an extra")
add("--most_voxels", type=at_least(1), default=1 << 27, help="coarsen objects with a larger bounding box")
add("--most_objects", type=at_least(1), default=100_000, help="refuse to write more files")
add_run_flags(parser, "replace files that were made with other options")


def main(arguments: argparse.Namespace) -> None:
    """Extract, and print what was written."""
    from incasem_like.segmentation.shape_run import Skeletons, extract_as_run

    result = extract_as_run(read_flags(Skeletons, arguments), **run_options(arguments, "measurements"))
    counts = f" ({result['objects']} objects, {result['length_nm'] / 1000:.1f} um)" if "objects" in result else ""
    report_written(f"skeletons{counts}", result["folder"], already="objects" not in result)


if __name__ == "__main__":
    run_script(main, parser)
