"""Measure every object of a segmentation: size, position, surface, contacts, mean intensity; stored as a run."""

import argparse

from incasem_like.commands.options import add_record_flags, record_options
from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = script_parser("Measure every object: size, bounding box, centre, surface, contacts, means of values.")
    add = parser.add_argument
    add("-s", "--segmentation", required=True, metavar="ZARR/DS", help="instance labels, 0 = background")
    add("-o", "--output", required=True, metavar="DIR", help="folder of the tables, CSV and Parquet")
    add("--intensity", metavar="ZARR/DS", help="grey values whose mean is measured")
    add("--probability", metavar="ZARR/DS", help="probabilities whose mean is measured; a channel as ZARR/DS@c=0")
    add("--block_shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="voxels measured at once; by default chosen")
    add("--overwrite", action="store_true", help="replace tables that were made with other options")
    add_worker_flags(parser)
    add_record_flags(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Measure, and print what was written."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.segmentation.measurement_run import Measurement, measure_as_run

    given = {name: getattr(arguments, name) for name in Measurement.__dataclass_fields__}
    request = Measurement(**{**given, "block_shape": arguments.block_shape and tuple(arguments.block_shape)})
    record = record_options(arguments, "measurements")
    workers = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    result = measure_as_run(request, overwrite=arguments.overwrite, **workers, **record)
    if "objects" not in result:
        report_written("tables", result["folder"], already=True)
        return
    counts = f"{result['objects']} objects of {result['voxels']} voxels, {result['contacts']} contacts"
    report_written(f"tables ({counts})", result["folder"])
    if record["store"] is not None:
        report_written(f"measurement run {result['run_id']}", record["store"].description)


if __name__ == "__main__":
    run_script(main, make_parser())
