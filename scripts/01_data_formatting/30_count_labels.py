#!/usr/bin/env python
"""Count labelled voxels and objects."""

import argparse
import json
from pathlib import Path

from incasem_like.terminal import add_worker_flags, run_script, script_parser

parser = script_parser("Count the labelled voxels and the objects of datasets, and find the box that holds them.")
add = parser.add_argument
add("-f", "--filename", required=True, help="container")
add("-d", "--datasets", nargs="+", required=True, help="labels")
add("-o", "--output", type=Path, help="JSON to write")
add_worker_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Count each dataset."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.disk import check_output_file, write_whole
    from incasem_like.formatting.label_counts import count_labels
    from incasem_like.volumes import open_volume

    if arguments.output:
        check_output_file(arguments.output)
    run = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    counts = {
        name: count_labels(open_volume(arguments.filename, name), **run).document() for name in arguments.datasets
    }
    for name, found in counts.items():
        box = found["box"]
        where = f", in shape {box['shape']} from {box['offset']}" if box else ""
        share = f"{found['labelled_voxels']} labelled voxels ({found['labelled_share']:.3%})"
        print(f"{name}: {found['objects']} objects, {share}{where}")
    if arguments.output:
        write_whole(arguments.output, lambda file: file.write((json.dumps(counts, indent=4) + "\n").encode()))


if __name__ == "__main__":
    run_script(main, parser)
