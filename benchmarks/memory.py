"""Peak resident memory of the stages on volumes of given edges, all processes together, with two workers.

``python benchmarks/memory.py --edge 256 768 --stages threshold evaluate export`` makes synthetic volumes of 256^3 and
768^3 voxels (raw uint8, probabilities float32), runs the scripts on them, and prints the peak of the summed unique
memory of the script and its children per stage; where memory does not go by the volume, the figures are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile

REPOSITORY = Path(__file__).resolve().parents[1]
FORMATTING, POSTPROCESSING = "scripts/01_data_formatting", "scripts/04_postprocessing"
STAGES = ("import", "equalise", "mask", "shrink", "foreground", "threshold", "evaluate", "export", "predict")
CHUNK = 64
RESULTS = Path(__file__).parent / "results" / "memory.json"


def write_sections(folder: Path, edge: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (edge, edge), dtype=np.uint8)
    for number in range(edge):
        tifffile.imwrite(folder / f"section_{number:04d}.tif", np.roll(base, number, axis=1) // 2 + number % 64)


def resident(process: psutil.Process) -> tuple[int, int]:
    """Memory in bytes of a process and its children: unique (pages shared by several counted once each), largest."""
    total = largest = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            unique, whole = member.memory_full_info().uss, member.memory_info().rss
        except psutil.Error:
            continue
        total, largest = total + unique, max(largest, whole)
    return total, largest


def measured(stage: str, *command: str) -> dict[str, float | str]:
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY)
    peaks = [0, 0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            try:
                now = resident(psutil.Process(process.pid))
            except psutil.Error:
                continue
            peaks[:] = [max(pair) for pair in zip(peaks, now, strict=True)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    stop.set()
    watcher.join()
    if status:
        sys.exit(f"{stage} exited with status {status}")
    row = {
        "stage": stage,
        "seconds": round(time.monotonic() - started, 1),
        "peak_gib_all_processes": round(peaks[0] / 2**30, 2),
        "peak_gib_largest_process": round(peaks[1] / 2**30, 2),
    }
    print(row, flush=True)
    return row


def write_config(folder: Path, name: str, shape: tuple[int, int, int]) -> Path:
    entry = {
        "file": str(folder / "big.zarr"),
        "offset": [0, 0, 0],
        "shape": shape,
        "voxel_size": [5, 5, 5],
        "raw": "volumes/raw",
        "labels": {"volumes/raw": 1},
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({name: entry}))
    return path


def write_probabilities(container: str, edge: int) -> None:
    """Write noise as probabilities of one class, and labels that follow them, in chunks as predictions have them."""
    from incasem_like.volumes import Coordinate, Roi, create_volume

    noise = np.random.default_rng(1).random((CHUNK, edge, edge), dtype=np.float32)
    for dataset, dtype in (("probs", "float32"), ("labels", "uint8")):
        volume = create_volume(
            container, dataset, shape=(edge,) * 3, dtype=dtype, voxel_size=(5, 5, 5), chunk_shape=(CHUNK,) * 3
        )
        for z in range(0, edge, CHUNK):
            depth = min(CHUNK, edge - z)
            slab = noise[:depth] if dtype == "float32" else (noise[:depth] > 0.4).astype(np.uint8)
            volume.write(slab, Roi(Coordinate(z, 0, 0), slab.shape))
        volume.mark_complete()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, nargs="+", default=[1024], help="voxels along each axis")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), help="what to measure")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    results = {}
    for edge in arguments.edge:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            os.environ["INCASEM_JOBS"] = str(Path(name) / "jobs")
            print(f"{edge}^3 voxels", flush=True)
            results[edge] = run_stages(Path(name), edge, arguments.stages)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"cores": os.cpu_count(), "edges": results}, indent=2))


def run_stages(folder: Path, edge: int, stages: list[str]) -> list[dict[str, float | str]]:
    container, runs, workers = str(folder / "big.zarr"), str(folder / "runs"), folder / "workers.yaml"
    workers.write_text("count: 2")
    rows = []
    if {"import", "equalise", "predict"} & set(stages):
        write_sections(folder / "sections", edge)
    if {"threshold", "evaluate", "export", "mask", "shrink", "foreground"} & set(stages):
        write_probabilities(container, edge)
    probs = f"{container}/probs"
    commands = {
        "import": (f"{FORMATTING}/00_image_sequences_to_zarr.py", "-i", str(folder / "sections"), "-f", container),
        "equalise": (f"{FORMATTING}/40_equalize_histogram.py", "-f", container),
        "mask": (f"{FORMATTING}/60_create_metric_mask.py", "-f", container, "-d", "labels", "-o", "mask"),
        "shrink": (f"{FORMATTING}/10_derive_volume.py", "downsample", "-f", container, "-d", "probs", "-o", "small",
                   "--factors", "2", "2", "2"),
        "foreground": (f"{FORMATTING}/20_create_mask.py", "-f", container, "-d", "labels", "-o", "foreground",
                       "--min_gray_value", "0"),
        "threshold": (f"{POSTPROCESSING}/00_extract_segmentation_with_threshold.py", "--prediction_filename", container,
                      "-d", "probs", "-o", "segmentation", "-t", "0.5", "--runs", runs),
        "evaluate": (f"{POSTPROCESSING}/05_evaluate_metric.py", "-l", f"{container}/labels", "-p", probs,
                     "--threshold_start", "0.1", "--threshold_stop", "0.9", "--runs", runs),
        "export": (f"{POSTPROCESSING}/20_convert_zarr_to_image_sequence.py", "-f", container, "-d", "probs",
                   "-o", str(folder / "out")),
    }  # fmt: skip
    for stage, command in commands.items():
        if stage in stages:
            rows.append(measured(stage, *command, "--workers", str(workers)))
    if "predict" in stages:
        rows.append(predict(folder, edge, runs))
    return rows


def predict(folder: Path, edge: int, runs: str) -> dict[str, float | str]:
    network = (
        "model.num_fmaps=4",
        "model.downsample_factors=[[2,2,2]]",
        "training.input_size_voxels=[32,32,32]",
        "training.output_size_voxels=[14,14,14]",
        "training.iterations=1",
        "training.augmentation.elastic=null",
        "training.precache.num_workers=0",
        "torch.device=cpu",
    )
    small = write_config(folder, "small", (64, 64, 64))
    train = ("with", "config_training.yaml", f"training.data={small}", f"directories.runs={runs}", *network)
    measured("train one iteration", "scripts/02_train/train.py", *train)
    whole = f"prediction.data={write_config(folder, 'whole', (edge, edge, edge))}"
    places = (f"directories.runs={runs}", f"prediction.directories.prefix={folder}", "torch.device=cpu")
    order = ("--run_id", "1", "with", "config_prediction.yaml", whole, *places)
    return measured("predict", "scripts/03_predict/predict.py", *order)


if __name__ == "__main__":
    main()
