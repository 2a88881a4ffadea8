"""The command that searches the parameters of a segmentation on validation blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.segment import add_prediction_flags
from incasem_like.commands.tracked import run_tracked, script_folder
from incasem_like.terminal import add_worker_flags, script_parser

if TYPE_CHECKING:
    from incasem_like.evaluation.search_config import DecodeSearchConfig

EXAMPLE = "--run_id 12 --labels ZARR/DS with search.space.segmentation.watershed.scoring=[mean,hist_quant_50]"
AXES = ("Z", "Y", "X", "DEPTH", "HEIGHT", "WIDTH")


def main(script: Path) -> None:
    """Run the script."""
    parser = script_parser(
        "Search the parameters of a segmentation on blocks with ground truth; the best are stored in the run, for "
        "10_segment.py --parameters_of."
    )
    add = parser.add_argument
    add("--run_id", type=int, metavar="ID", help="prediction run to segment")
    add("--labels", required=True, metavar="ZARR/DS", help="ground truth: instance ids, 0 = not labelled")
    add("--block", type=int, nargs=6, action="append", metavar=AXES, help="validation block in voxels: first voxel and "
        "shape; may be repeated; default: what prediction and labels cover")  # fmt: skip
    add(
        "--seen",
        choices=("refuse", "score"),
        default="refuse",
        help="what to do if the model was trained on the blocks",
    )
    add_prediction_flags(parser)
    add_worker_flags(parser, short=False)

    folder = script_folder(script)
    run_tracked(parser, EXAMPLE, lambda line: read_config(line, folder), lambda config, line: run(config, line, script))


def read_config(line: CommandLine, folder: Path) -> DecodeSearchConfig:
    """Read the configuration."""
    from incasem_like.evaluation.search_config import load_search_config  # numpy would slow ``--help`` down

    return load_search_config(line.files, line.updates, folder)


def run(config: DecodeSearchConfig, line: CommandLine, script: Path) -> None:
    """Search, and print the choices, the best first."""
    from incasem_like.commands.searching import search

    search(config, line, script)
