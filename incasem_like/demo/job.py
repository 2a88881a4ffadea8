"""The demo: generate, import, train, predict by run id, evaluate and report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from incasem_like.demo import plan
from incasem_like.demo.page import write_page
from incasem_like.demo.plan import DemoPlaces, DemoSize
from incasem_like.demo.stages import StageRunner
from incasem_like.errors import IncasemError
from incasem_like.prediction.outputs import prediction_group
from incasem_like.terminal import duration
from incasem_like.tracking import RunRecord, open_store

FORMATTING, POSTPROCESSING = "01_data_formatting", "04_postprocessing"
THRESHOLD = "0.5"
ROLES = (("training", "train"), ("validation", "validation"))


def run_demo(places: DemoPlaces, size: DemoSize) -> dict[str, Any]:
    """Run every stage and write ``report.html`` and ``result.json``.

    Args:
        places: Folders to read from and write to.
        size: Size of volumes and training.

    Returns:
        The content of ``result.json``: dice, seconds (in all and by stage), run ids, report.

    Raises:
        IncasemError: A stage failed, or the dice on the unseen volume is below ``size.dice_floor``.
    """
    started = time.monotonic()
    places.data.mkdir(parents=True, exist_ok=True)
    runner = StageRunner(places.repository, places.work / "demo.log")
    for name, seed in size.seeds.items():
        make_volume(runner, places, size, name, seed)
        format_volume(runner, places, name)
    plan.write_data_configs(size, places)
    training = train(runner, places, size)
    prediction = predict(runner, places, training)
    evaluation = measure(runner, places, training, prediction)
    seconds = time.monotonic() - started
    dice = round(float(evaluation.result["dice"][THRESHOLD]), 4)
    result: dict[str, Any] = {
        "dice": dice,
        "seconds": {"total": round(seconds, 1), **runner.seconds_by_stage()},
        "training_run_id": training.id,
        "prediction_run_id": prediction.id,
        "evaluation_run_id": evaluation.id,
        "report": str(places.work / "report.html"),
    }
    write_page(places, training, prediction, evaluation, runner, result)
    (places.work / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"\nDice on the unseen volume: {dice:.3f}, after {duration(seconds)}.")
    print(f"Training run {training.id}, prediction run {prediction.id}. Open {result['report']}")
    if dice < size.dice_floor:
        raise IncasemError(f"The demo's dice is {dice}, below the {size.dice_floor} that it should reach.")
    return result


def make_volume(runner: StageRunner, places: DemoPlaces, size: DemoSize, name: str, seed: int) -> None:
    """Generate a volume as TIFF sections, unless it exists."""
    if (places.sections(name) / "raw").exists():
        return
    where = (
        "--output",
        places.sections(name),
        "--format",
        "tiff",
        "--voxel_size",
        *plan.VOXEL_SIZE,
        "--recipe",
        "clear",
    )
    runner.run("generate", f"{FORMATTING}/05_make_synthetic_data.py", "--shape", *size.shape, "--seed", seed, *where)


def format_volume(runner: StageRunner, places: DemoPlaces, name: str) -> None:
    """Import a volume's sections and labels, equalise it, and mask the objects' boundaries."""
    container, sections = places.container(name), places.sections(name)
    inputs = ("-i", sections / "raw", sections / "mask", "-f", container, "-d", plan.RAW, plan.LABELS)
    chunks = ("--resolution", *plan.VOXEL_SIZE, "--chunks", 64, 64, 64)
    runner.run("import", f"{FORMATTING}/00_image_sequences_to_zarr.py", *inputs, *chunks)
    grid = ("-c", 64, 64, 64)
    equalize = ("-f", container, "-d", plan.RAW, "-o", plan.EQUALIZED, "--kernel_size", 64, *grid)
    runner.run("equalise", f"{FORMATTING}/40_equalize_histogram.py", *equalize)
    zone = ("--exclude_voxels_inwards", 1, "--exclude_voxels_outwards", 1)
    mask = ("-f", container, "-d", plan.LABELS, "-o", plan.METRIC_MASK, *grid, *zone)
    runner.run("mask", f"{FORMATTING}/60_create_metric_mask.py", *mask)


def train(runner: StageRunner, places: DemoPlaces, size: DemoSize) -> RunRecord:
    """Train on the training volumes, and return the tracked run."""
    configs = ("config_training.yaml", "config_demo.yaml")
    data = [f"{role}.data={runner.shown(places.data_config(name))}" for role, name in ROLES]
    runner.run("train", "02_train/train.py", "--name", "demo", "with", *configs, *data, *size.updates)
    return newest_run(places.runs, "trainings")


def predict(runner: StageRunner, places: DemoPlaces, training: RunRecord) -> RunRecord:
    """Predict the unseen volume by run id, and return the tracked run."""
    updates = (f"prediction.data={runner.shown(places.data_config('test'))}", "torch.device=cpu")
    options = ("--run_id", training.id, "--name", "demo", "with", "config_prediction.yaml", *updates)
    runner.run("predict", "03_predict/predict.py", *options)
    return newest_run(places.runs, "predictions")


def measure(runner: StageRunner, places: DemoPlaces, training: RunRecord, prediction: RunRecord) -> RunRecord:
    """Threshold the probabilities, compare them with the ground truth, and export the segmentation as TIFF sections."""
    container = places.container("test")
    predicted = prediction_group(training.id, prediction.id)
    source = ("--prediction_filename", container, "-d", f"{predicted}/prob_maps/class_1", "-c", 64, 64, 64)
    segmented = f"volumes/segmentations/predict_{prediction.id:04d}"
    script = f"{POSTPROCESSING}/00_extract_segmentation_with_threshold.py"
    runner.run("segment", script, *source, "-o", segmented, "-t", THRESHOLD)
    volumes = ("-l", container / plan.LABELS, "-p", container / predicted / "prob_maps/class_1")
    sweep = ("--threshold_start", 0.3, "--threshold_stop", 0.7, "--metric", "dice", "--name", "demo")
    runner.run("evaluate", f"{POSTPROCESSING}/05_evaluate_metric.py", *volumes, *sweep)
    out = ("-f", container, "-d", segmented, "-o", places.data / "exported", "--overwrite")
    runner.run("export", f"{POSTPROCESSING}/20_convert_zarr_to_image_sequence.py", *out)
    return newest_run(places.runs, "evaluations")


def newest_run(runs: Path, kind: str) -> RunRecord:
    """Return the run of a kind with the highest id in the file store of ``runs``."""
    store = open_store(None, kind, runs)
    return store.get(max(store.ids()))
