"""``bootstrap.py``: a round from painted labels to a dense segmentation, as one run that refers to ordinary runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from incasem_like.bootstrapping.settings import RoundConfig, load_round_config
from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.tracked import run_tracked, script_folder, stores_of
from incasem_like.config.loading import COMMAND_LINE, Layers, lay_given

EXAMPLE = "with round.yaml round.raw=data/cell.zarr/volumes/raw round.labels=[data/cell.zarr/volumes/labels/painted]"


def main(script: Path) -> NoReturn:
    """Run the round that the command line of ``script`` describes."""
    parser = argparse.ArgumentParser(
        description="Go from painted labels to a dense segmentation: models, predictions, segmentations, each a "
        "tracked run. The same command resumes; what has not changed is not run again.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--continue", dest="parent", type=int, metavar="ID", help="the next round after round ID, with its "
        "configuration, and with what was painted in its folder")  # fmt: skip
    add("--stop_after", metavar="STEP", help="stop after this step; the same command without it goes on")
    add("--from", dest="repeat_from", metavar="STEP", help="repeat this step and what depends on it")
    add("--dry_run", action="store_true", help="print the steps and what would be run, and why; run nothing")
    add("--num_workers", type=int, default=os.cpu_count(), metavar="N", help="processes of steps that work in blocks")
    folder = script_folder(script)
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), lambda config, line: run(config, line, script))


def read_config(line: CommandLine, folder: Path) -> RoundConfig:
    """Read the configuration; with ``--continue``, that of the parent round below the given keys."""
    config = load_round_config(line.files, line.updates, folder)
    if line.own.parent is None:
        return config
    parent = stores_of(line, config.directories, config.tracking).open("bootstrapping").get(line.own.parent)
    layers = Layers()
    layers.lay({key: value for key, value in parent.config.items() if key in RoundConfig.model_fields}, COMMAND_LINE)
    layers.lay({"directories": config.directories.model_dump(mode="json")}, COMMAND_LINE)
    lay_given(layers, RoundConfig, line.files, line.updates, folder)
    return layers.validated(RoundConfig)


def run(config: RoundConfig, line: CommandLine, script: Path) -> None:
    """Run the steps of the round that are not done yet, or print them for ``--dry_run``."""
    from incasem_like.commands import bootstrapping  # takes a second that ``--help`` would pay

    bootstrapping.run(config, line, script)
