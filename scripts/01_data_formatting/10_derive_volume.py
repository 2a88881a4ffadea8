#!/usr/bin/env python
"""Make one volume from another: crop, pad, resample, convert and so on."""

import argparse
import sys
from dataclasses import replace
from typing import Any

from incasem_like.terminal import add_worker_flags, run_script, script_parser

ZYX = ("Z", "Y", "X")
PURPOSE = "Make one volume from another, block by block; OPERATION --help lists the flags of one operation."
METHOD = {"choices": ("auto", "mean", "mode"), "default": "auto", "help": "mean of intensities, mode of labels"}
# Purpose and flags of each operation; a function of the same name in incasem_like/formatting/operations.py.
OPERATIONS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "components": (
        "Give every connected part of labels or of a mask an id of its own.",
        {"object_size": {"type": int, "default": 0, "help": "remove objects with fewer voxels"}},
    ),
    "convert": ("Copy a volume to other chunks, another format or container.", {}),
    "crop": (
        "Cut out a box; it keeps its position.",
        {
            "offset": {
                "type": int,
                "nargs": 3,
                "metavar": ZYX,
                "help": "first voxel, absolute; by default the volume's",
            },
            "shape": {"type": int, "nargs": 3, "metavar": ZYX, "default": (0, 0, 0), "help": "voxels; 0 = the rest"},
            "around": {"metavar": "LABELS", "help": "box of all labelled voxels of container/dataset instead"},
            "margin": {"type": int, "nargs": 3, "metavar": ZYX, "default": (0, 0, 0), "help": "voxels around that box"},
        },
    ),
    "dilate": (
        "Grow instance labels into the background; where two meet in one step, the larger id wins.",
        {
            "steps": {"type": int, "default": 1, "help": "voxels to grow, through faces"},
            "in_plane": {"action": "store_true", "help": "grow within sections only"},
        },
    ),
    "disks": (
        "Mask disks at random places of each section, as if only they had been annotated.",
        {
            "count": {"type": int, "required": True, "help": "disks per section"},
            "radius": {"type": float, "required": True, "help": "voxels"},
            "seed": {"type": int, "default": 0, "help": "random seed"},
        },
    ),
    "downsample": (
        "Shrink a volume by whole factors.",
        {
            "factors": {"type": int, "nargs": 3, "metavar": ZYX, "required": True, "help": "whole numbers"},
            "method": METHOD,
        },
    ),
    "invert": ("Replace every grey value by the maximum of its type minus the value.", {}),
    "labelled_mask": ("Mask the labelled voxels (1), so that all others are left out of a training.", {}),
    "match_histogram": (
        "Change grey values so that their histogram becomes that of a reference volume.",
        {
            "reference": {"required": True, "help": "reference, as container/dataset; uint8 or uint16 like the volume"},
            "mask": {"help": "mask of the volume, as container/dataset; 0 = not counted"},
            "reference_mask": {"help": "mask of the reference"},
        },
    ),
    "pad": (
        "Extend a volume on its sides.",
        {
            "before": {
                "type": int,
                "nargs": 3,
                "metavar": ZYX,
                "default": (0, 0, 0),
                "help": "voxels before the first",
            },
            "after": {"type": int, "nargs": 3, "metavar": ZYX, "default": (0, 0, 0), "help": "voxels after the last"},
            "mode": {
                "choices": ("constant", "edge", "reflect"),
                "default": "constant",
                "help": "fill with --value, the outermost voxel, or the mirror image",
            },
            "value": {"type": float, "default": 0, "help": "value for --mode constant"},
        },
    ),
    "resample": (
        "Change the voxel size.",
        {
            "voxel_size": {"type": float, "nargs": 3, "metavar": ZYX, "required": True, "help": "nanometres"},
            "method": METHOD,
        },
    ),
    "rescale": (
        "Map grey values linearly to uint8.",
        {
            "value_range": {
                "type": float,
                "nargs": 2,
                "metavar": ("LOW", "HIGH"),
                "help": "values that become 0 and 255",
            },
            "percentiles": {"type": float, "nargs": 2, "metavar": ("LOW", "HIGH"), "help": "the same as percentiles"},
        },
    ),
    "select": (
        "Make the class map of some label ids: 1 where a label is one of them.",
        {"ids": {"type": int, "nargs": "+", "required": True, "help": "label ids of the class"}},
    ),
}
LIST = "operations:\n" + "\n".join(f"  {name:<17}{purpose}" for name, (purpose, _) in OPERATIONS.items())


def operation_parser(name: str) -> argparse.ArgumentParser:
    """Make the parser of one operation."""
    purpose, flags = OPERATIONS[name]
    parser = script_parser(purpose, prog=f"{sys.argv[0].rpartition('/')[2]} {name}")
    add = parser.add_argument
    add("-f", "--filename", required=True, help="container of the volume")
    add("-d", "--dataset", required=True, help="dataset to read")
    add("-F", "--out_filename", help="container to write; by default the same")
    add("-o", "--out_dataset", required=True, help="dataset to write")
    for flag, options in flags.items():
        add(f"--{flag}", **options)
    add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks, voxels")
    add("--shard_shape", type=int, nargs=3, metavar=ZYX, help="shards of several chunks, voxels; for zarr3")
    add("--format", choices=("zarr2", "zarr3", "n5"), help="format of a new container; by default after its suffix")
    add("--compression", choices=("zstd", "lz4", "gzip", "none"), help="by default zstd, in an N5 gzip")
    add_worker_flags(parser)
    add("--overwrite", action="store_true", help="replace an existing result")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Make the blocks that are not done yet."""
    from incasem_like.formatting.derive import Derivation, derive
    from incasem_like.formatting.foreground_mask import label_components
    from incasem_like.formatting.operations import OPERATIONS as FUNCTIONS

    derivation = replace(
        Derivation.from_arguments(arguments),
        out_container=arguments.out_filename,
        storage={name: getattr(arguments, name) for name in ("shard_shape", "format", "compression")},
    )
    options = {flag: getattr(arguments, flag) for flag in OPERATIONS[operation][1]}
    if operation == "components":
        written = label_components(derivation, **options)
    else:
        written = derive(derivation, FUNCTIONS[operation], **options)
    written.report(f"the volume ({operation})", None)


if __name__ == "__main__":
    operation = sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in OPERATIONS else ""
    if not operation:
        listing = script_parser(PURPOSE, epilog=LIST)
        listing.formatter_class = argparse.RawDescriptionHelpFormatter
        listing.add_argument("operation", choices=list(OPERATIONS), help="what to do")
        listing.parse_args()
    run_script(main, operation_parser(operation))
