"""Voxels predicted per second on a CPU: predict.py against gunpowder's Scan + Predict, and the bare forward pass.

The same U-Net, weights, volume and threads. gunpowder scans with incasem's tiles: 204 voxels in, 110 out. The network
is incasem's with fewer feature maps (``--num_fmaps``, 8 of 32), so that the run takes minutes; nothing else is reduced.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import gunpowder as gp
import numpy as np
import torch
import zarr
from gunpowder.torch import Predict

from incasem_like.commands.cpu_memory import use_huge_pages
from incasem_like.config import PredictionConfig, load_prediction_config, load_training_config
from incasem_like.networks import build_network, load_checkpoint, save_checkpoint
from incasem_like.networks.inference import inference
from incasem_like.prediction.experiment import predict_data
from incasem_like.prediction.plan import PredictionPlan, plan_prediction
from incasem_like.prediction.region_task import read_begun
from incasem_like.tracking import RunRecord, open_store, run_experiment
from incasem_like.volumes import create_volume

RESULTS = Path(__file__).parent / "results" / "prediction.json"
VOXEL_SIZE = gp.Coordinate(5, 5, 5)
INPUT, OUTPUT, CONTEXT = 204, 110, 47


def make_laboratory(folder: Path, tiles: int, num_fmaps: int) -> tuple[RunRecord, PredictionConfig]:
    """Write a volume, and a training run whose network is incasem's with fresh weights."""
    edge = tiles * OUTPUT + 2 * CONTEXT
    raw = create_volume(
        folder / "data" / "cell.zarr", "raw", shape=(edge,) * 3, dtype="uint8", voxel_size=VOXEL_SIZE, offset=(0, 0, 0)
    )
    raw.write(np.random.default_rng(0).integers(0, 256, (edge,) * 3, dtype=np.uint8))
    raw.mark_complete()
    runs = folder / "runs"
    training = load_training_config([], [f"model.num_fmaps={num_fmaps}", f"directories.runs={runs}"])
    store = open_store(None, "trainings", runs)

    def register(run: object) -> None:
        path = runs / "models" / "0001" / "model_checkpoint_1"
        save_checkpoint(path, build_network(training.model))
        run.register_checkpoint(path, 1, {})

    run_experiment(name="train", config=training.model_dump(mode="json"), main=register, store=store)
    entry = {"file": "cell.zarr", "raw": "raw", "voxel_size": [5, 5, 5], "offset": [CONTEXT] * 3}
    entry["shape"] = [tiles * OUTPUT] * 3
    (folder / "predict.json").write_text(json.dumps({"cell": entry}))
    changes = [
        f"prediction.data={folder / 'predict.json'}",
        f"directories.runs={runs}",
        f"directories.data={folder / 'data'}",
        "torch.device=cpu",
    ]
    return store.get(1), load_prediction_config([], changes)


def gunpowder_seconds(plan: PredictionPlan) -> float:
    """Predict the region with gunpowder, tile by tile, and write the logits."""
    region = plan.regions[0]
    raw, logits = gp.ArrayKey("RAW"), gp.ArrayKey("LOGITS")
    network = build_network(plan.training.model).eval()
    load_checkpoint(plan.checkpoint.path, network)
    reference = gp.BatchRequest()
    reference.add(raw, VOXEL_SIZE * INPUT)
    reference.add(logits, VOXEL_SIZE * OUTPUT)
    with tempfile.TemporaryDirectory() as folder:
        zarr.open_group(f"{folder}/out.zarr", mode="w")
        pipeline = gp.ZarrSource(
            str(region.raw.container), {raw: "raw"}, {raw: gp.ArraySpec(interpolatable=True, voxel_size=VOXEL_SIZE)}
        )
        pipeline += gp.Normalize(raw)
        pipeline += gp.IntensityScaleShift(raw, 2, -1)
        pipeline += gp.Unsqueeze([raw])
        pipeline += gp.Unsqueeze([raw])
        roi = gp.Roi(VOXEL_SIZE * CONTEXT, VOXEL_SIZE * gp.Coordinate(region.roi.shape))
        spec = gp.ArraySpec(roi=roi, voxel_size=VOXEL_SIZE, dtype=np.float32)
        pipeline += Predict(network, {0: raw}, {0: logits}, {logits: spec}, device="cpu")
        pipeline += gp.Squeeze([logits])
        pipeline += gp.ZarrWrite({logits: "logits"}, store=f"{folder}/out.zarr", dataset_dtypes={logits: "float32"})
        pipeline += gp.Scan(reference)
        request = gp.BatchRequest()
        with gp.build(pipeline):
            begun = time.perf_counter()
            pipeline.request_batch(request)
            seconds = time.perf_counter() - begun
        written = zarr.open(f"{folder}/out.zarr", mode="r")["logits"]
        assert written.shape[1:] == tuple(region.roi.shape)
        assert np.asarray(written[:, :110, :110, :110]).std() > 0
    return seconds


def ours_seconds(plan: PredictionPlan, training: RunRecord, folder: Path) -> tuple[float, tuple[int, ...]]:
    """Predict the region as predict.py does in one process: probability maps, segmentation and log are written."""
    directories = plan.config.prediction.directories.model_copy(update={"prefix": folder})
    section = plan.config.prediction.model_copy(update={"directories": directories})
    finished = predict_data(plan.config.model_copy(update={"prediction": section}), training, store=lambda: None)
    begun = read_begun(finished.places["cell"])
    assert begun is not None
    return finished.result["seconds"], begun.input_size


def bare_seconds(plan: PredictionPlan, input_size: tuple[int, ...], forward: Callable[[torch.Tensor], object]) -> float:
    """Run the network alone on tiles of the sizes that the region is predicted with, in a loop."""
    region = plan.regions[0]
    tiles = plan.predictor(input_size).tiles(region.roi, region.raw_roi.begin)
    largest = max((read for read, _ in tiles), key=lambda read: read.size)
    raw = torch.rand((1, 1, *largest.shape)).contiguous(memory_format=torch.channels_last_3d)
    begun = time.perf_counter()
    with torch.inference_mode():
        for read, _ in tiles:
            z, y, x = read.shape
            forward(raw[:, :, :z, :y, :x])
    return time.perf_counter() - begun


def best_of(times: int, measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num_fmaps", type=int, default=8, help="feature maps of the finest level; incasem's has 32")
    parser.add_argument("--tiles", type=int, default=3, help="gunpowder's tiles along each axis of the region")
    parser.add_argument("--repeats", type=int, default=1, help="times that each is measured; the best counts")
    arguments = parser.parse_args()
    use_huge_pages()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["INCASEM_CACHE"] = str(folder / "cache")
        training, config = make_laboratory(folder, arguments.tiles, arguments.num_fmaps)
        plan = plan_prediction(config, training)
        plan.speed(most_voxels=1e8)  # measured once for a network and kept, so that it counts for nobody's time
        rows = compare(plan, training, folder, arguments.repeats)
    report = {
        "num_fmaps": arguments.num_fmaps,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        **rows,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2))


def compare(plan: PredictionPlan, training: RunRecord, folder: Path, repeats: int) -> dict[str, object]:
    """Measure all and print the ratios."""
    voxels = int(plan.regions[0].roi.size)
    sizes: list[tuple[int, ...]] = []

    def ours() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            seconds, size = ours_seconds(plan, training, Path(out))
        sizes.append(size)
        return seconds

    seconds = {"ours": best_of(repeats, ours)}
    run = inference(plan.network, torch.device("cpu"))
    seconds["bare"] = best_of(
        repeats, lambda: bare_seconds(plan, sizes[0], lambda raw: list(run(iter([raw]), tuple(raw.shape[2:]))))
    )
    seconds["module"] = best_of(repeats, lambda: bare_seconds(plan, (INPUT,) * 3, plan.network))
    seconds["gunpowder"] = best_of(repeats, lambda: gunpowder_seconds(plan))
    rates = {name: voxels / value for name, value in seconds.items()}
    said = {
        "gunpowder": "gunpowder's Scan + Predict, 204 in, 110 out",
        "bare": f"the same network and tiles ({' x '.join(map(str, sizes[0]))}) in a loop, nothing read or written",
        "module": "torch's forward pass of tiles of 204 in a loop, channels last, nothing read or written",
    }
    print(f"prediction: {rates['ours'] / 1e3:.0f} thousand voxels/s")
    for name, peer in said.items():
        ratio = rates["ours"] / rates[name]
        print(f"{peer}: {rates[name] / 1e3:.0f} thousand voxels/s: {ratio:.2f} times as fast")
    return {"voxels": voxels, "seconds": seconds, "voxels_per_second": rates, "input_size": sizes[0]}


if __name__ == "__main__":
    main()
