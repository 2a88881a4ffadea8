#!/usr/bin/env python
"""Check data configurations and report what their entries hold."""

import argparse
import os
from pathlib import Path

from incasem_like.terminal import report_written, run_script, script_parser

parser = script_parser(
    "Check data configurations as a training does; report classes, objects, context and shared voxels."
)
add = parser.add_argument
add("data", type=Path, nargs="+", help="JSON files; give training and validation together to see shared voxels")
add("-o", "--contact_sheet", type=Path, metavar="PNG", help="picture to write with three planes of each entry")
add("-n", "--num_workers", type=int, default=os.cpu_count(), help="processes, at most")


def main(arguments: argparse.Namespace) -> None:
    """Print the report of each entry, and write the picture."""
    from incasem_like.commands.data_configs import check_entries, shared_voxels, write_contact_sheet
    from incasem_like.disk import check_output_file

    if arguments.contact_sheet:
        check_output_file(arguments.contact_sheet)
    reports = check_entries(arguments.data, num_workers=arguments.num_workers)
    for report in reports:
        print("\n".join(report.lines()))
    for sentence in shared_voxels(reports):
        print(f"Warning: {sentence}")
    if arguments.contact_sheet:
        write_contact_sheet(reports, arguments.contact_sheet)
        report_written("the contact sheet", str(arguments.contact_sheet))


if __name__ == "__main__":
    run_script(main, parser)
