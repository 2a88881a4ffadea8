"""The command that segments a prediction into objects."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import given_workers
from incasem_like.commands.tracked import run_options, run_tracked, script_folder, stores_of
from incasem_like.errors import InputError
from incasem_like.terminal import add_worker_flags, counted, report_written, script_parser, shell_command
from incasem_like.tracking.model.summaries import flatten

if TYPE_CHECKING:
    from incasem_like.segmentation.settings import SegmentationConfig
    from incasem_like.volumes import Volume

EXAMPLE = "--run_id 12 with segmentation.yaml segmentation.watershed.threshold=0.2"
EVALUATE = "scripts/04_postprocessing/15_evaluate_segmentation.py"


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

    def read_config(line: CommandLine) -> SegmentationConfig:
        from incasem_like.segmentation.settings import load_segmentation_config

        folder = script_folder(script)
        config = load_segmentation_config(line.files, line.updates, folder)
        if line.own.parameters_of is None:
            return config
        from incasem_like.evaluation.decode_search import best_parameters

        store = stores_of(line, config.directories, config.tracking).open("evaluations")
        best = flatten({"segmentation": best_parameters(store.get(line.own.parameters_of))})
        updates = [f"{key}={json.dumps(value)}" for key, value in best.items()]
        return load_segmentation_config(line.files, [*updates, *line.updates], folder)

    run_tracked(parser, EXAMPLE, read_config, lambda config, line: segment(config, line, script))


def segment(config: SegmentationConfig, line: CommandLine, script: Path) -> None:
    """Segment, and print what was written."""
    from incasem_like.segmentation.planning import plan_segmentation
    from incasem_like.segmentation.segment_run import segment_as_run

    workers = given_workers(line.own)
    plan = plan_segmentation(open_prediction(config, line), config.segmentation)
    store = None if line.unobserved else stores_of(line, config.directories, config.tracking).open("segmentations")
    result = segment_as_run(
        config,
        plan,
        store=store,
        prediction_run_id=line.own.run_id,
        parameters_of=line.own.parameters_of,
        overwrite=line.own.overwrite,
        num_workers=line.own.num_workers,
        workers=workers,
        **run_options(line, script),
    )
    for made in result["segmentations"]:
        at = removed = ""
        if result["run_id"] is not None:
            at = "" if made["threshold"] is None else f" at threshold {made['threshold']:g}"
            if made["removed_objects"]:
                objects = counted(made["removed_objects"], "object")
                removed = f", {objects} of {made['removed_voxels']} voxels removed by size"
            at += f" ({counted(made['objects'], 'object')}{removed})"
        following = shell_command("python", EVALUATE, "-p", made["address"], "-l", "YOUR_LABELS")
        report_written(f"segmentation{at}", made["address"], following, already=result["run_id"] is None)
    if store is not None and result["run_id"] is not None:
        report_written(f"segmentation run {result['run_id']}", store.description)


def add_prediction_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a prediction made elsewhere, or a part of a prediction run."""
    add = parser.add_argument
    add("--region", metavar="NAME", help="region of the prediction, if it has several")
    add("-f", "--filename", metavar="ZARR", help="container of a prediction made elsewhere, instead of --run_id")
    add("-d", "--dataset", metavar="DS", help="its dataset; with --run_id, a dataset in the prediction's group")
    add("--mongodb_predictions", metavar="URL", help="store of the prediction run, if different from this run's")


def open_prediction(config: SegmentationConfig, line: CommandLine) -> Volume:
    """Open the prediction that the command line names; with ``--predict``, one that is made wherever it is read.

    Raises:
        InputError: It names none, or both a run and a container; or the run lacks it.
    """
    from incasem_like.config import load_prediction_config
    from incasem_like.segmentation.predicted import predicted_volume
    from incasem_like.segmentation.segment_run import predicted_dataset
    from incasem_like.volumes import open_volume

    own = line.own
    if getattr(own, "predict", None) is not None:  # 11_search_parameters.py lacks the flag
        if own.training is None or own.run_id is not None or own.filename is not None:
            raise InputError(
                "--predict needs --training ID, and neither --run_id nor -f: the network is the training's."
            )
        prediction = load_prediction_config([own.predict])
        trainings = [stores_of(line, config.directories, config.tracking).open("trainings").get(own.training)]
        return predicted_volume(prediction, trainings, own.region, own.dataset, given_workers(own))
    if (own.run_id is None) == (own.filename is None):
        raise InputError(
            "Name what to segment: --run_id ID, or -f CONTAINER and -d DATASET of a prediction made elsewhere."
        )
    if own.filename is not None:
        return open_volume(own.filename, own.dataset)
    store = stores_of(line, config.directories, config.tracking, own.mongodb_predictions).open("predictions")
    return predicted_dataset(store.get(own.run_id), own.region, own.dataset)
