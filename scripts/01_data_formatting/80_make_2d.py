#!/usr/bin/env python
"""Write the sections of a volume as 2-D datasets, or stack 2-D datasets to a volume."""

import argparse

from incasem_like.terminal import add_worker_flags, at_least, report_written, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Write the sections of a volume as 2-D datasets, or with --stack, 2-D datasets as a volume.")
add = parser.add_argument
add("-f", "--filename", required=True, help="container to read")
add("-d", "--dataset", required=True, help="volume; with --stack the group of the sections, named by their numbers")
add("-F", "--out_filename", help="container to write; by default the same")
add("-o", "--out_dataset", required=True, help="group to write the sections to; with --stack the volume")
add("--stack", action="store_true", help="stack sections to a volume")
add("--section_size", type=float, help="voxel size along z for --stack, nanometres")
add("--start", type=int, help="number of the first section")
add("--stop", type=int, help="number after the last section")
add("--step", type=int, default=1, help="every so many sections")
add("--include", type=int, nargs="+", help="only the sections with these numbers")
add("--exclude", type=int, nargs="+", default=(), help="all but the sections with these numbers")
add("--keep_empty", action="store_true", help="also write sections that are 0 everywhere")
add("-c", "--chunk_shape", type=at_least(1), nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks, voxels")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace existing results")


def main(arguments: argparse.Namespace) -> None:
    """Write the sections or the volume."""
    from dataclasses import replace

    from incasem_like.errors import InputError
    from incasem_like.formatting.derive import Derivation
    from incasem_like.formatting.plane_sections import SectionChoice, split_sections, stack_sections

    derivation = replace(Derivation.from_arguments(arguments), out_container=arguments.out_filename)
    chosen = {name: getattr(arguments, name) for name in ("start", "stop", "step", "include", "exclude")}
    if arguments.stack:
        if arguments.section_size is None:
            raise InputError("--stack needs the voxel size along z: give --section_size in nm.")
        stack_sections(derivation, arguments.section_size, SectionChoice(**chosen)).report("the volume", None)
        return
    written, empty = split_sections(derivation, SectionChoice(**chosen), keep_empty=arguments.keep_empty)
    place = f"{arguments.out_filename or arguments.filename}/{arguments.out_dataset}"
    report_written(f"{len(written)} sections ({empty} empty ones left out)", place)


if __name__ == "__main__":
    run_script(main, parser)
