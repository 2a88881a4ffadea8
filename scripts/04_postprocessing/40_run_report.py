"""Write an HTML report of any tracked run: its metadata, curves and configuration."""

import argparse
from pathlib import Path

from incasem_like.commands.options import STORE_OPTIONS, StoreChoice, add_options
from incasem_like.terminal import report_written, run_script, script_parser, shown_path
from incasem_like.tracking.kinds import KINDS


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = script_parser("Write a self-contained HTML page on a tracked run.")
    parser.add_argument("-r", "--run_id", type=int, required=True, metavar="ID", help="the run")
    parser.add_argument("--kind", choices=KINDS, default="trainings", help="what kind of run it is")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: report_KIND_ID.html")
    add_options(parser, STORE_OPTIONS, "the run's store")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Write the page and print its path."""
    from incasem_like.viewing.report import write_report
    from incasem_like.viewing.run_report import report_of_run

    record = StoreChoice.from_arguments(arguments).open(arguments.kind).get(arguments.run_id)
    output = (arguments.output or Path(f"report_{arguments.kind}_{record.id:04d}.html")).expanduser().absolute()
    report_written("the report", shown_path(write_report(report_of_run(record), output)))


if __name__ == "__main__":
    run_script(main, make_parser())
