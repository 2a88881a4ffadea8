"""Run the main workflow end to end on a synthetic volume: generate, import, train, predict by run id, report."""

import argparse
from pathlib import Path

from incasem_like.terminal import run_script, script_parser

parser = script_parser("Run the whole workflow on a synthetic volume and write a report page.")
parser.add_argument(
    "--short", action="store_true", help="a small volume and a few iterations, to check that everything runs"
)


def main(arguments: argparse.Namespace) -> None:
    """Run the demo in this checkout's folders."""
    from incasem_like.config import default_data_directory, default_runs_directory
    from incasem_like.demo.job import run_demo
    from incasem_like.demo.plan import FULL, SHORT, DemoPlaces

    name = "demo_short" if arguments.short else "demo"
    places = DemoPlaces(Path(__file__).resolve().parents[1], default_runs_directory(), default_data_directory() / name)
    run_demo(places, SHORT if arguments.short else FULL)


if __name__ == "__main__":
    run_script(main, parser)
