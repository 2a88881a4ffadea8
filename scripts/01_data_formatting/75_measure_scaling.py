#!/usr/bin/env python
"""Measure the factor that brings the intensities of a volume to one scale."""

import argparse

from incasem_like.terminal import add_worker_flags, at_least, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Measure the scaling factor of a volume of light microscopy, from tiles drawn at random.")
add = parser.add_argument
add("-f", "--filename", required=True, help="container of the volume")
add("-d", "--dataset", required=True, help="volume to measure")
add("--num_tiles", type=int, help="tiles to draw; by default all")
add("-p", "--share", type=float, help="share of the tiles to draw instead, above 0 to 1")
add("--tile_shape", type=int, nargs=3, default=(200, 200, 200), metavar=ZYX, help="tiles, voxels")
add("--offset", type=int, nargs=3, metavar=ZYX, help="first voxel of a box to measure, absolute")
add("--shape", type=int, nargs=3, default=(0, 0, 0), metavar=ZYX, help="voxels of that box; 0 = the rest")
add("--limits", type=float, nargs=2, default=(0, 4000), metavar=("LOW", "HIGH"), help="intensities that count")
add("--seed", type=at_least(0), default=0, help="random seed of the choice")
add_worker_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Measure the tiles and print the factor."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.formatting.intensity_scale import measure_scaling
    from incasem_like.formatting.operations import crop_roi
    from incasem_like.volumes import open_volume

    volume = open_volume(arguments.filename, arguments.dataset)
    scaling = measure_scaling(
        volume,
        roi=crop_roi(str(volume.address), volume.roi, arguments.offset, arguments.shape),
        tile_shape=arguments.tile_shape,
        count=arguments.num_tiles,
        share=arguments.share,
        seed=arguments.seed,
        limits=tuple(arguments.limits),
        num_workers=arguments.num_workers,
        workers=given_workers(arguments),
    )
    print(scaling)


if __name__ == "__main__":
    run_script(main, parser)
