"""Write datasets as folders of numbered TIFF sections that common image viewers open, values kept."""

import argparse
from pathlib import Path

from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser

parser = script_parser("Write volumes as folders of numbered TIFF sections (8, 16, 32 bit or float, values kept).")
add = parser.add_argument
add("-f", "--filename", action="append", required=True, metavar="ZARR", help="container; may be repeated")
add("-d", "--datasets", action="append", nargs="+", required=True, metavar="DS", help="datasets of each container")
add("-o", "--out_directory", type=Path, required=True, help="output folder, with one folder per dataset")
add("--out_datasets", action="append", nargs="+", metavar="NAME", help="folder names (default: the dataset names)")
add(
    "--dtype",
    choices=("uint8", "uint16", "uint32", "float32"),
    help="data type to convert to; probabilities are scaled to its range (default: the data's own; for integers of "
    "more than 16 bits the smallest type that holds all values and that ImageJ and Pillow open)",
)
add("--absolute", action="store_true", help="number sections by absolute z position in voxels instead of from 0")
add("--overwrite", action="store_true", help="replace existing folders of earlier exports")
add_worker_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Export each dataset and print where it is."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.formatting.image_export import export_all, pair_datasets

    workers = given_workers(arguments)
    pairs = pair_datasets(arguments.filename, arguments.datasets, arguments.out_directory, arguments.out_datasets)
    names = ("dtype", "absolute", "overwrite", "num_workers")
    for summary in export_all(pairs, workers=workers, **{name: getattr(arguments, name) for name in names}):
        if summary.already_complete:
            print(f"Already complete: {summary.directory}")
            continue
        what = f"{summary.sections} {summary.dtype} sections, {summary.first_file.name} to {summary.last_file.name}"
        if summary.dtype != summary.source_dtype:
            what = f"{summary.source_dtype} values as {what}"
        report_written(what, str(summary.directory))


if __name__ == "__main__":
    run_script(main, parser)
