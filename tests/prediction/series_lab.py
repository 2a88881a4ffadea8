"""A training with two checkpoints and a labelled region, and what it takes to predict a series with them."""

import json

import numpy as np
import torch
import zarr

from incasem_like.config import load_series_config
from incasem_like.evaluation.prediction_metrics import PredictionMetrics
from incasem_like.networks import save_checkpoint
from incasem_like.prediction.series.experiment import examine_series, predict_series
from incasem_like.tracking import file_sha256

TILES = "prediction.input_size_voxels=[44,44,44]"


class SeriesLab:
    """A training with checkpoints 1 and 2, and what it takes to predict with both."""

    def __init__(self, laboratory):
        self.laboratory, self.runs, self.container = laboratory, laboratory.runs, laboratory.container
        self.store, self.figures = laboratory.store, []
        self.entries = {"cell_er": laboratory.entry(labels={"volumes/labels/er": 1})}

    @property
    def training(self):
        return self.laboratory.training_store.get(1)

    def config(self, *updates, entries=None):
        path = self.laboratory.folder / "series.json"
        path.write_text(json.dumps(entries or self.entries))
        fixed = [f"prediction.data={path}", f"directories.runs={self.runs}", "torch.device=cpu", TILES]
        data = f"directories.data={self.laboratory.folder / 'data'}"
        return load_series_config([], [*fixed, data, *updates])

    def predict(self, *updates, entries=None, **options):
        options.setdefault("store", lambda: self.store)
        config = self.config(*updates, entries=entries)
        return predict_series(config, self.training, observing=PredictionMetrics, draw=self._draw, **options)

    def _draw(self, scores, regions, best):
        self.figures.append((dict(scores), regions, best))
        return b"figure of " + str(sorted(scores)).encode()

    def examine(self, *updates, entries=None, **options):
        return examine_series(
            self.config(*updates, entries=entries), lambda: self.training, lambda: self.store, **options
        )

    def checkpoint(self, iteration):
        return self.runs / "models" / "0001" / f"model_checkpoint_{iteration}"

    def register(self, iteration, change=0.05):
        """Let the training have one more checkpoint, as if it had gone on."""
        network = self.laboratory.network
        with torch.no_grad():
            network.final_conv_pass.conv_pass[0].bias[0] += change
        save_checkpoint(self.checkpoint(iteration), network)
        path = self.checkpoint(iteration)
        entry = {
            "iteration": iteration,
            "path": str(path.relative_to(self.runs)),
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "metrics": {"dice_class_1": 0.1},
        }
        entries = [*self.training.info["checkpoints"], entry]
        self.laboratory.training_store.note(1, {"checkpoints": entries})

    def folder(self, run_id, iteration):
        group = f"volumes/predictions/train_0001/predict_{run_id:04d}/iteration_{iteration:06d}"
        return self.container / group

    def stored(self, run_id, iteration, dataset="prob_maps/class_1"):
        return np.asarray(zarr.open(str(self.folder(run_id, iteration)), mode="r")[dataset])


def steps(record, name="dice_class_1"):
    """The iterations at which a run logged a metric."""
    return record.metrics[name].steps
