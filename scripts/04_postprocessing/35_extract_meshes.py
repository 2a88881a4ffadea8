"""Extract the surfaces of objects as meshes: for neuroglancer, as PLY or OBJ; stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, add_segmentation_flags, read_flags, run_options
from incasem_like.terminal import at_least, report_written, run_script, script_parser

FORMATS = ("precomputed", "ply", "obj")

parser = script_parser("Extract the surfaces of objects as meshes, block by block.")
add_segmentation_flags(parser, "folder of the files")
add = parser.add_argument
add("--formats", nargs="+", choices=FORMATS, default=["precomputed"], help="precomputed is that of neuroglancer")
add("--ids", type=at_least(1), nargs="+", metavar="ID", help="objects; by default all of --min_size")
add("--min_size", type=at_least(0), default=1000, help="leave out objects of fewer voxels")
add("--reduction", type=float, default=0.0, help="share of the faces to remove where surfaces are flat, below 1")
add("--block_shape", type=at_least(1), nargs=3, metavar=("Z", "Y", "X"), help="voxels at once; by default chosen")
add("--most_objects", type=at_least(1), default=100_000, help="refuse to write more files")
add_run_flags(parser, "replace files that were made with other options")


def main(arguments: argparse.Namespace) -> None:
    """Extract, and print what was written."""
    from incasem_like.segmentation.shape_run import Meshes, extract_as_run

    result = extract_as_run(read_flags(Meshes, arguments), **run_options(arguments, "measurements"))
    counts = f" ({result['objects']} objects)" if "objects" in result else ""
    report_written(f"meshes{counts}", result["folder"], already="objects" not in result)


if __name__ == "__main__":
    run_script(main, parser)
