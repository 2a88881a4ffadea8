"""Write an HTML report of any tracked run: its metadata, curves and configuration."""

import argparse
from pathlib import Path

from incasem_like.commands.options import STORE_OPTIONS, StoreChoice, add_options
from incasem_like.terminal import run_script, script_parser
from incasem_like.tracking.kinds import KINDS

parser = script_parser("Write a self-contained HTML page on a tracked run.")
parser.add_argument("-r", "--run_id", type=int, required=True, metavar="ID", help="the run")
parser.add_argument("--kind", choices=KINDS, default="trainings", help="what kind of run it is")
parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: report_KIND_ID.html")
add_options(parser, STORE_OPTIONS, "the run's store")


def main(arguments: argparse.Namespace) -> None:
    """Write the page and print its path."""
    from incasem_like.commands.report import write_run_report

    stores = StoreChoice.from_arguments(arguments)
    write_run_report(stores.open(arguments.kind).get(arguments.run_id), stores, arguments.output)


if __name__ == "__main__":
    run_script(main, parser)
