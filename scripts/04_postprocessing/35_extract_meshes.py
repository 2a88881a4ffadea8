"""Extract the surfaces of objects as meshes: for neuroglancer, as PLY or OBJ; stored as a run."""

import argparse

from incasem_like.commands.options import add_record_flags, record_options
from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser

FORMATS = ("precomputed", "ply", "obj")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = script_parser("Extract the surfaces of objects as meshes, block by block.")
    add = parser.add_argument
    add("-s", "--segmentation", required=True, metavar="ZARR/DS", help="instance labels, 0 = background")
    add("-o", "--output", required=True, metavar="DIR", help="folder of the files")
    add("--formats", nargs="+", choices=FORMATS, default=["precomputed"], help="precomputed is that of neuroglancer")
    add("--ids", type=int, nargs="+", metavar="ID", help="objects; by default all of --min_size")
    add("--min_size", type=int, default=1000, help="leave out objects of fewer voxels")
    add("--reduction", type=float, default=0.0, help="share of the faces to remove where surfaces are flat, below 1")
    add("--block_shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels meshed at once; by default chosen")
    add("--most_objects", type=int, default=100_000, help="refuse to write more files")
    add("--overwrite", action="store_true", help="replace files that were made with other options")
    add_worker_flags(parser)
    add_record_flags(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Extract, and print what was written."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.segmentation.shape_run import Meshes, extract_as_run

    given = {name: getattr(arguments, name) for name in Meshes.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    record = record_options(arguments, "measurements")
    workers = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    result = extract_as_run(Meshes(**{**given, **lists}), overwrite=arguments.overwrite, **workers, **record)
    counts = f" ({result['objects']} objects)" if "objects" in result else ""
    report_written(f"meshes{counts}", result["folder"], already="objects" not in result)


if __name__ == "__main__":
    run_script(main, make_parser())
