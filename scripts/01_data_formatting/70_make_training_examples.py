#!/usr/bin/env python
"""Choose training examples from annotated regions."""

import argparse
from pathlib import Path

from incasem_like.terminal import add_worker_flags, at_least, report_written, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Choose training examples from annotated regions: tiles of a grid, split by whole regions.")
add = parser.add_argument
add("-r", "--raw", nargs="+", required=True, help="intensities of each region, as container/dataset or file.h5/dataset")
add("-l", "--labels", nargs="+", required=True, help="labels of each region, in the same order; not 0 is foreground")
add("--names", nargs="+", help="a name for each region; by default region_1, region_2 ...")
add("-o", "--output", type=Path, required=True, help="HDF5 file with an image and a mask per example")
add("--validation", type=float, default=0.0, metavar="SHARE", help="share of the regions for a second file")
add("--validation_regions", nargs="+", help="names of the regions for the second file instead")
add("--tile_shape", type=int, nargs=3, default=(132, 132, 132), metavar=ZYX, help="what a network labels, voxels")
add("--context", type=int, nargs=3, default=(44, 44, 44), metavar=ZYX, help="voxels around it on each side")
add("--threshold", type=float, default=0.001, help="share of foreground above which a tile is a foreground tile")
add("--above_threshold_ratio", type=float, default=0.9, help="share of foreground tiles among the examples")
add("--samples_per_region", type=int, default=50, help="examples of each region")
add("--scaling", type=float, help="factor on intensities; by default measured in each region")
add("--seed", type=at_least(0), default=0, help="random seed of the choice")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace existing files")


def main(arguments: argparse.Namespace) -> None:
    """Choose the examples of each region and write them."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.disk import check_output_file
    from incasem_like.errors import InputError
    from incasem_like.formatting import training_examples as stage

    count = len(arguments.raw)
    names = arguments.names or [f"region_{number:0{len(str(count))}}" for number in range(1, count + 1)]
    if not len(arguments.raw) == len(arguments.labels) == len(names):
        raise InputError("Give as many --labels and --names as --raw volumes.")
    regions = [stage.AnnotatedRegion(*each) for each in zip(names, arguments.raw, arguments.labels, strict=True)]
    parts = stage.split_regions(regions, arguments.validation_regions or arguments.validation, arguments.seed)
    choice = stage.Choice(tuple(arguments.tile_shape), tuple(arguments.context), arguments.threshold,
        arguments.above_threshold_ratio, arguments.samples_per_region, arguments.seed)  # fmt: skip
    run = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    second = arguments.output.with_name(f"{arguments.output.stem}_validation{arguments.output.suffix}")
    files = [(path, part) for path, part in zip((arguments.output, second), parts, strict=True) if part]
    for path, _ in files:
        if path.parent.is_dir():  # else it is created
            check_output_file(path, overwrite=arguments.overwrite)
    chosen = {each.name: stage.choose_examples(each, choice, names.index(each.name), **run) for each in regions}
    factors = stage.scaling_factors(regions, arguments.scaling)
    for path, part in files:
        examples = [example for each in part for example in chosen[each.name][0]]
        stage.write_examples(path, examples, choice, factors, overwrite=arguments.overwrite)
        print("\n".join(f"{chosen[each.name][1]}, scaling factor {factors[each.name]:.6g}" for each in part))
        report_written(f"{len(examples)} examples", str(path))


if __name__ == "__main__":
    run_script(main, parser)
