#!/usr/bin/env python
"""Make one volume from another: crop, pad, resample, convert and so on."""

import argparse
import sys
from dataclasses import replace

from incasem_like.formatting.commands import COMMANDS, run_command
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.flags import add_options, purpose_of
from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
PURPOSE = "Make one volume from another, block by block; OPERATION --help lists the flags of one operation."


def run(name: str) -> None:
    """Read the flags of an operation and run it."""
    parser = script_parser(purpose_of(COMMANDS[name]), prog=f"{sys.argv[0].rpartition('/')[2]} {name}")
    add = parser.add_argument
    add("-f", "--filename", required=True, help="container of the volume")
    add("-d", "--dataset", required=True, help="dataset to read")
    add("-F", "--out_filename", help="container to write; by default the same")
    add("-o", "--out_dataset", required=True, help="dataset to write")
    flags = add_options(parser, COMMANDS[name])
    add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks, voxels")
    add("--shard_shape", type=int, nargs=3, metavar=ZYX, help="shards of several chunks, voxels; for zarr3")
    add("--format", choices=("zarr2", "zarr3", "n5"), help="format of a new container; by default after its suffix")
    add("--compression", choices=("zstd", "lz4", "gzip", "none"), help="by default zstd, in an N5 gzip")
    add_worker_flags(parser)
    add("--overwrite", action="store_true", help="replace an existing result")

    def main(arguments: argparse.Namespace) -> None:
        derivation = replace(
            Derivation.from_arguments(arguments),
            out_container=arguments.out_filename,
            storage={flag: getattr(arguments, flag) for flag in ("shard_shape", "format", "compression")},
        )
        for written in run_command(name, derivation, **{flag: getattr(arguments, flag) for flag in flags}):
            written.report(f"the volume ({name})", None)

    run_script(main, parser)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        run(sys.argv.pop(1))
    lines = "\n".join(f"  {name:<17}{purpose_of(function)}" for name, function in COMMANDS.items())
    listing = script_parser(PURPOSE, epilog=f"operations:\n{lines}")
    listing.formatter_class = argparse.RawDescriptionHelpFormatter
    listing.add_argument("operation", choices=list(COMMANDS), help="what to do")
    listing.parse_args()
