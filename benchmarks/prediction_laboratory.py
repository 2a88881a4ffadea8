"""What the benchmark of predictions measures on: a volume, a tracked training run, and gunpowder's way to predict."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gunpowder as gp
import numpy as np
import zarr
from gunpowder.torch import Predict

from incasem_like.config import PredictionConfig, load_prediction_config, load_training_config
from incasem_like.networks import build_network, load_checkpoint, save_checkpoint
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.tracking import RunRecord, open_store, run_experiment
from incasem_like.volumes import create_volume

VOXEL_SIZE = gp.Coordinate(5, 5, 5)
# incasem's tiles: what is read, what is written, and the context on either side.
INPUT, OUTPUT, CONTEXT = 204, 110, 47


@dataclass(frozen=True)
class Laboratory:
    """A volume ``data/cell.zarr``, and a training run whose network is incasem's with fresh weights."""

    folder: Path
    training: RunRecord

    def config(self, *updates: str) -> PredictionConfig:
        """Make the configuration of a prediction of the volume."""
        fixed = [
            f"prediction.data={self.folder / 'predict.json'}",
            f"directories.runs={self.folder / 'runs'}",
            f"directories.data={self.folder / 'data'}",
        ]
        return load_prediction_config([], [*fixed, *updates])


def make_laboratory(folder: Path, shape: tuple[int, int, int], num_fmaps: int, *, empty: bool = False) -> Laboratory:
    """Write it all.

    Args:
        folder: Where.
        shape: Voxels to be predicted; raw has real context around them.
        num_fmaps: Feature maps of the finest level; incasem's has 32.
        empty: Leave all of raw at 0, which takes no room on disk however large it is.
    """
    whole = tuple(edge + 2 * CONTEXT for edge in shape)
    raw = create_volume(
        folder / "data" / "cell.zarr", "raw", shape=whole, dtype="uint8", voxel_size=VOXEL_SIZE, offset=(0, 0, 0)
    )
    if not empty:
        raw.write(np.random.default_rng(0).integers(0, 256, whole, dtype=np.uint8))
    raw.mark_complete()
    entry = {"file": "cell.zarr", "raw": "raw", "voxel_size": [5, 5, 5], "offset": [CONTEXT] * 3, "shape": list(shape)}
    (folder / "predict.json").write_text(json.dumps({"cell": entry}))
    runs = folder / "runs"
    training = load_training_config([], [f"model.num_fmaps={num_fmaps}", f"directories.runs={runs}"])
    store = open_store(None, "trainings", runs)

    def register(run: object) -> None:
        path = runs / "models" / "0001" / "model_checkpoint_1"
        save_checkpoint(path, build_network(training.model))
        run.register_checkpoint(path, 1, {})

    run_experiment(name="train", config=training.model_dump(mode="json"), main=register, store=store)
    return Laboratory(folder, store.get(1))


def gunpowder_seconds(plan: PredictionPlan, device: str) -> tuple[float, float]:
    """Predict the region with gunpowder, tile by tile, and write the logits; give wall and processor seconds."""
    region = plan.regions[0]
    raw, logits = gp.ArrayKey("RAW"), gp.ArrayKey("LOGITS")
    network = build_network(plan.training.model).eval()
    load_checkpoint(plan.lead.source.checkpoint.path, network)
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
        pipeline += Predict(network, {0: raw}, {0: logits}, {logits: spec}, device=device)
        pipeline += gp.Squeeze([logits])
        pipeline += gp.ZarrWrite({logits: "logits"}, store=f"{folder}/out.zarr", dataset_dtypes={logits: "float32"})
        pipeline += gp.Scan(reference)
        request = gp.BatchRequest()
        with gp.build(pipeline), contextlib.redirect_stderr(io.StringIO()):
            begun, used = time.perf_counter(), time.process_time()
            pipeline.request_batch(request)
            seconds = time.perf_counter() - begun, time.process_time() - used
        written = zarr.open(f"{folder}/out.zarr", mode="r")["logits"]
        assert written.shape[1:] == tuple(region.roi.shape)
        assert np.asarray(written[:, :OUTPUT, :OUTPUT, :OUTPUT]).std() > 0
    return seconds
