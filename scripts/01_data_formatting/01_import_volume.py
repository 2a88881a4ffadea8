#!/usr/bin/env python
"""Import a volume of another program: HDF5, MRC, NIfTI, Zarr, N5, precomputed, or a folder of images."""

import argparse

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser(
    "Import a volume: HDF5, MRC, NIfTI, Zarr, N5 or precomputed, local or remote, TIFF, PNG or JPEG."
)
add = parser.add_argument
add("-i", "--input", required=True, help="file or container with the dataset behind it (cell.h5/raw), URL, or folder")
add("-f", "--output_file", required=True, help="container to write, .zarr or .n5")
add("-d", "--output_dataset", default="volumes/raw", help="dataset to write; with labels in its name it holds labels")
add("--level", type=int, help="scale level of an input with several, 0 = the finest")
add("--voxel_size", type=float, nargs=3, metavar=ZYX, help="nanometres: of the level to read, or if the file lacks it")
add("--offset", type=int, nargs=3, metavar=ZYX, help="first voxel to import, absolute; by default the volume's first")
add("--shape", type=int, nargs=3, default=(0, 0, 0), metavar=ZYX, help="voxels to import; 0 = the rest")
add("--axes", default="zyx", metavar="ORDER", help="what the axes z, y, x of the input really are, if it is wrong: xyz")
add("--dtype", help="data type; an error if values do not fit; by default that of the input")
add("--value_range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="grey values that become 0 and 255")
add("--percentiles", type=float, nargs=2, metavar=("LOW", "HIGH"), help="the same as percentiles of all voxels")
add("--invert", action="store_true", help="replace every value by the maximum of the type minus the value")
add("--conversion", help="RelabelTo:VALUE or RelabelToUid; for images also RgbToGray, ColourMapIndices")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks, voxels")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace an existing dataset")


def main(arguments: argparse.Namespace) -> None:
    """Import the blocks that are not done yet."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.formatting.derive import Derivation
    from incasem_like.formatting.import_volume import import_volume

    derivation = Derivation(
        arguments.output_file,
        arguments.output_dataset,
        arguments.output_dataset,
        tuple(arguments.chunk_shape),
        arguments.num_workers,
        arguments.overwrite,
        given_workers(arguments),
        arguments.output_file,
    )
    same = ("level", "voxel_size", "axes", "offset", "shape", "dtype", "value_range", "percentiles", "invert")
    options = {name: getattr(arguments, name) for name in (*same, "conversion")}
    import_volume(arguments.input, derivation, **options).report("the volume", None)


if __name__ == "__main__":
    run_script(main, parser)
