#!/usr/bin/env python
"""Download public example data: incasem's cells, FIB-25, CREMI."""

import argparse
from pathlib import Path

from incasem_like.terminal import run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Download public example data, anonymously: whole, or a box of it. The same command resumes.")
add = parser.add_argument
add("name", nargs="?", help="cell_N, fib25, cremi_A, cremi_B or cremi_C; without a name they are listed")
add("-o", "--output_dir", type=Path, default=Path("data"), help="folder to write to")
add("-d", "--datasets", nargs="+", default=(), help="datasets for a box, such as volumes/raw")
add("--offset", type=int, nargs=3, metavar=ZYX, help="first voxel of the box, absolute; by default the volume's first")
add("--shape", type=int, nargs=3, metavar=ZYX, help="voxels of the box; 0 = the rest; without it, all is downloaded")
add("--url", help="another server or bucket with the same paths, https://… or s3://…")
add("--num_workers", type=int, default=1, help="processes for a box")
add("--overwrite", action="store_true", help="replace a box that is there")


def main(arguments: argparse.Namespace) -> None:
    """Download what is missing."""
    from incasem_like.errors import InputError
    from incasem_like.pretrained.public_data import describe_public_data, download_box, download_public_data
    from incasem_like.terminal import report_written

    if arguments.name is None:
        print("\n".join(describe_public_data()))
    elif arguments.shape is None:
        if arguments.offset or arguments.datasets:
            raise InputError("--offset and --datasets are for a box: give --shape too.")
        path = download_public_data(arguments.name, arguments.output_dir, arguments.url)
        report_written(arguments.name, str(path), None)
    else:
        box = {"offset": arguments.offset, "shape": tuple(arguments.shape)}
        options = {"num_workers": arguments.num_workers, "overwrite": arguments.overwrite}
        for written in download_box(
            arguments.name, arguments.output_dir, arguments.datasets, arguments.url, **box, **options
        ):
            written.report(f"a box of {arguments.name}", None)


if __name__ == "__main__":
    run_script(main, parser)
