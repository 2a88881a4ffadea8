"""The work of ``10_segment.py``: its configuration, the prediction to segment, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.options import given_workers
from incasem_like.commands.tracked import run_options, stores_of
from incasem_like.config import load_prediction_config
from incasem_like.errors import InputError
from incasem_like.evaluation.decode_search import best_parameters
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.predicted import predicted_volume
from incasem_like.segmentation.segment_run import predicted_dataset, segment_as_run
from incasem_like.segmentation.settings import load_segmentation_config
from incasem_like.terminal import counted, report_written, shell_command
from incasem_like.tracking.model.summaries import flatten
from incasem_like.volumes import open_volume

if TYPE_CHECKING:
    from incasem_like.segmentation.settings import SegmentationConfig
    from incasem_like.volumes import Volume

EVALUATE = "scripts/04_postprocessing/15_evaluate_segmentation.py"


def read_config(line: CommandLine, folder: Path) -> SegmentationConfig:
    """Read the configuration; with ``--parameters_of``, that of a search below the given keys.

    Args:
        line: The command line.
        folder: The script's folder, where files are searched too.
    """
    config = load_segmentation_config(line.files, line.updates, folder)
    if line.own.parameters_of is None:
        return config
    store = stores_of(line, config.directories, config.tracking).open("evaluations")
    best = flatten({"segmentation": best_parameters(store.get(line.own.parameters_of))})
    updates = [f"{key}={json.dumps(value)}" for key, value in best.items()]
    return load_segmentation_config(line.files, [*updates, *line.updates], folder)


def segment(config: SegmentationConfig, line: CommandLine, script: Path) -> None:
    """Segment, and print what was written."""
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


def open_prediction(config: SegmentationConfig, line: CommandLine) -> Volume:
    """Open the prediction that the command line names; with ``--predict``, one that is made wherever it is read.

    Raises:
        InputError: It names none, or both a run and a container; or the run lacks it.
    """
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
