#!/usr/bin/env python
"""Import folders of TIFF sections as datasets of a Zarr or N5 container."""

import argparse
from pathlib import Path

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
WHOLE = (0, 0, 0)
parser = script_parser("Import folders of TIFF sections as datasets of a Zarr or N5 container.")
add = parser.add_argument
add("-c", is_config_file=True, metavar="FILE", help="same as --config")  # type: ignore[call-overload]
add("-i", "--input_dir", type=Path, nargs="+", required=True, help="folders of .tif/.tiff, one per dataset, or TIFFs")
add("-f", "--output_file", required=True, help="container to write, .zarr or .n5")
add("-d", "--output_dataset", nargs="+", default=["volumes/raw"], help="one per folder")
add("-r", "--image_regex", help="selects files; group 1 = section number; by default the last number in the name")
add("--channel", type=int, metavar="N", help="channel to import from multi-channel files, counted from 0")
add("--time", type=int, metavar="N", help="time point to import from files with several, counted from 0")
add("--section_axis", choices=("Z", "T", "C"), default="Z", help="axis of multi-page files whose pages are sections")
add("--dtype", nargs="+", default=["uint8"], help="data type, one or one per folder; an error if values do not fit")
add("--offset", type=int, nargs=3, default=WHOLE, metavar=ZYX, help="crop: first voxel; kept as the array's offset")
add("--shape", type=int, nargs=3, default=WHOLE, metavar=ZYX, help="crop: voxels; 0 = the rest")
add("--resolution", type=float, nargs=3, default=(5.0, 5.0, 5.0), metavar=ZYX, help="voxel size, nanometres")
add("--chunks", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="voxels")
kinds = "None, RgbToGray, RgbToGrayInversion, ColourMapIndices, RelabelTo:VALUE or RelabelToUid"
add("--conversion", nargs="+", default=["None"], help=kinds)
add("--invert", action="store_true", help="replace every value by the maximum of the bit depth minus the value")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace existing datasets")


def main(arguments: argparse.Namespace) -> None:
    """Check all folders, then import them one by one."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.formatting.import_sections import import_all, plan_imports

    workers = given_workers(arguments)
    orders = plan_imports(
        arguments.input_dir,
        arguments.output_dataset,
        arguments.dtype,
        arguments.conversion,
        container=arguments.output_file,
        regex=arguments.image_regex,
        **{name: getattr(arguments, name) for name in ("invert", "channel", "time", "section_axis")},
        offset=tuple(arguments.offset),
        shape=tuple(arguments.shape),
        voxel_size=tuple(arguments.resolution),
        chunk_shape=tuple(arguments.chunks),
    )
    options = {"num_workers": arguments.num_workers, "overwrite": arguments.overwrite, "workers": workers}
    for order, written in import_all(orders, **options):
        written.report(f"the sections of {order.source}", order.next_command if order is orders[-1] else None)


if __name__ == "__main__":
    run_script(main, parser)
