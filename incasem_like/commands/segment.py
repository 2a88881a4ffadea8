"""The command that segments a prediction into objects."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.terminal import add_worker_flags, script_parser

if TYPE_CHECKING:
    from incasem_like.segmentation.settings import SegmentationConfig

EXAMPLE = "--run_id 12 with segmentation.yaml segmentation.watershed.threshold=0.2"


def main(script: Path) -> None:
    """Run the script."""
    parser = script_parser("Segment a prediction into objects, block by block; the result is a tracked run.")
    add = parser.add_argument
    add("--run_id", type=int, metavar="ID", help="prediction run to segment")
    add_prediction_flags(parser)
    add("--predict", type=Path, metavar="FILE", help="config_prediction.yaml: predict while segmenting, store nothing")
    add("--training", type=int, metavar="ID", help="with --predict: training run whose network predicts")
    add("--parameters_of", type=int, metavar="ID", help="evaluation run of 11_search_parameters.py whose best "
        "parameters are used; key=value arguments override them")  # fmt: skip
    add("--overwrite", action="store_true", help="replace the stages that were made with other options")
    add_worker_flags(parser, short=False)

    folder = script_folder(script)
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), lambda config, line: run(config, line, script))


def read_config(line: CommandLine, folder: Path) -> SegmentationConfig:
    """Read the configuration."""
    from incasem_like.commands import segmenting  # numpy and pydantic would slow ``--help`` down

    return segmenting.read_config(line, folder)


def run(config: SegmentationConfig, line: CommandLine, script: Path) -> None:
    """Segment, and print what was written."""
    from incasem_like.commands.segmenting import segment

    segment(config, line, script)


def add_prediction_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a prediction made elsewhere, or a part of a prediction run."""
    add = parser.add_argument
    add("--region", metavar="NAME", help="region of the prediction, if it has several")
    add("-f", "--filename", metavar="ZARR", help="container of a prediction made elsewhere, instead of --run_id")
    add("-d", "--dataset", metavar="DS", help="its dataset; with --run_id, a dataset in the prediction's group")
    add("--mongodb_predictions", metavar="URL", help="store of the prediction run, if different from this run's")
