"""Extract the skeletons of objects with their lengths, as SWC and for neuroglancer; stored as a run."""

import argparse

from incasem_like.commands.options import add_record_flags, record_options
from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = script_parser("Extract the skeletons of objects by TEASAR: lengths, SWC files, neuroglancer.")
    add = parser.add_argument
    add("-s", "--segmentation", required=True, metavar="ZARR/DS", help="instance labels, 0 = background")
    add("-o", "--output", required=True, metavar="DIR", help="folder of the files")
    add("--ids", type=int, nargs="+", metavar="ID", help="objects; by default all of --min_size")
    add("--min_size", type=int, default=1000, help="leave out objects of fewer voxels")
    add("--scale", type=float, default=1.5, help="a path covers its surroundings within this times its radius ...")
    add("--constant", type=float, default=300.0, help="... plus this, nm; more leaves out more side branches")
    add("--most_voxels", type=int, default=1 << 27, help="coarsen objects with a larger bounding box")
    add("--most_objects", type=int, default=100_000, help="refuse to write more files")
    add("--overwrite", action="store_true", help="replace files that were made with other options")
    add_worker_flags(parser)
    add_record_flags(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Extract, and print what was written."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.segmentation.shape_run import Skeletons, extract_as_run

    given = {name: getattr(arguments, name) for name in Skeletons.__dataclass_fields__}
    request = Skeletons(**{**given, "ids": arguments.ids and tuple(arguments.ids)})
    record = record_options(arguments, "measurements")
    workers = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    result = extract_as_run(request, overwrite=arguments.overwrite, **workers, **record)
    counts = f" ({result['objects']} objects, {result['length_nm'] / 1000:.1f} um)" if "objects" in result else ""
    report_written(f"skeletons{counts}", result["folder"], already="objects" not in result)


if __name__ == "__main__":
    run_script(main, make_parser())
