"""Peak resident memory of importing, equalising and predicting a volume of a given edge, all processes together.

``python benchmarks/memory.py --edge 1024`` makes a synthetic volume of 1024^3 uint8 voxels, runs the
scripts on it, and prints the peak of the summed unique memory of the script and its children per stage.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=1024, help="voxels along each axis")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_sections(folder / "sections", arguments.edge)
        rows = run_stages(folder, arguments.edge)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"edge": arguments.edge, "cores": os.cpu_count(), "stages": rows}, indent=2))


def run_stages(folder: Path, edge: int) -> list[dict[str, float | str]]:
    container, runs = str(folder / "big.zarr"), str(folder / "runs")
    formatting = "scripts/01_data_formatting"
    sections = ("-i", str(folder / "sections"), "-f", container, "-d", "volumes/raw", "--num_workers", "2")
    equalised = ("-f", container, "-d", "volumes/raw", "-o", "volumes/raw_equalized_0.02", "--num_workers", "2")
    rows = [
        measured("import", f"{formatting}/00_image_sequences_to_zarr.py", *sections),
        measured("equalise", f"{formatting}/40_equalize_histogram.py", *equalised),
    ]
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
    predict = ("--run_id", "1", "with", "config_prediction.yaml", whole, *places)
    rows.append(measured("predict", "scripts/03_predict/predict.py", *predict))
    return rows


if __name__ == "__main__":
    main()
