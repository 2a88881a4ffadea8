"""Small networks with lively weights, a volume in memory, and one on disk with a tracked training run to predict it."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from prediction.series_lab import SeriesLab

from incasem_like.config import ModelConfig, load_prediction_config, load_training_config
from incasem_like.networks import build_network, load_checkpoint, save_checkpoint
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.experiment import predict_data
from incasem_like.tracking import open_store, run_experiment
from incasem_like.volumes import create_volume

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "03_predict" / "predict.py"
MODELS = {
    "isotropic": {},
    "anisotropic": {
        "downsample_factors": [[1, 2, 2], [2, 2, 2]],
        "kernel_size_down": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 2, [[3, 3, 3]] * 2],
        "kernel_size_up": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 2],
    },
    "transposed": {"constant_upsample": False, "downsample_factors": [[3, 3, 3]]},
    "padded": {"type": "OneConv3d"},
    "same": {"padding": "same", "normalization": "batch", "residual": "shortcut", "downsample_factors": [[1, 2, 2]]},
    "interpolating": {"upsample_mode": "linear", "residual": "linear", "downsample_factors": [[2, 2, 3]]},
    "decoders": {"crop_to_factor": False, "decoder_channels": [1, 2], "constant_upsample": False},
    "exllsm": {
        **{"halve_first": True, "upsampled_first": True, "constant_upsample": False, "crop_to_factor": False},
        **{"num_fmaps": 4, "final_kernel_size": 1, "transposed_fmaps": "lower", "bottleneck_dropout": 0.5},
    },
    "hourglass": {
        **{"type": "StackedHourglass", "num_stacks": 2, "downsample_factors": [[2, 2, 2]]},
        **{"kernel_size_down": [[[1, 3, 3]], [[1, 3, 3]]], "kernel_size_up": [[[3, 3, 3]]], "constant_upsample": None},
    },
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Several test processes share the cores; threads on top of that make each of them slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_network():
    """Build one of ``MODELS`` with weights of which the signal reaches the output."""

    def make(kind):
        values = {
            "type": "Unet",
            "in_channels": 1,
            "num_fmaps": 3,
            "num_fmaps_out": 3,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2, 2, 2]] * 2,
            "kernel_size_down": None,
            "kernel_size_up": None,
            "constant_upsample": True,
        }
        values |= MODELS[kind]
        values = {key: value for key, value in values.items() if value is not None}
        return _enliven(build_network(ModelConfig.model_validate(values))).eval()

    return make


@pytest.fixture(scope="session")
def enliven():
    """Give a network weights with which the signal reaches the output."""
    return _enliven


def _enliven(network):
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter, generator=generator)
        else:
            torch.nn.init.uniform_(parameter, 0.0, 0.2, generator=generator)
    return network


class MirroredVolume:
    """A volume at an offset, mirrored beyond its edges."""

    def __init__(self, shape, begin):
        self.values = np.random.default_rng(0).random(shape, dtype=np.float32)
        self.begin = begin

    def read(self, roi):
        indices = []
        for axis, length in enumerate(self.values.shape):
            at = np.arange(roi.begin[axis], roi.end[axis]) - self.begin[axis]
            at = np.abs(at) % (2 * (length - 1))
            indices.append(np.where(at < length, at, 2 * (length - 1) - at))
        return self.values[np.ix_(*indices)]


@pytest.fixture(scope="session")
def mirrored_volume():
    return MirroredVolume


RAW_SHAPE, RAW_BEGIN = (40, 44, 36), (10, -20, 0)
VOXEL_SIZE = (8.0, 4.6, 4.6)
# Of this network a tile of 52 gives 34 voxels along each axis, which is a chunk too.
WIDE, WIDE_TILES = (40, 80, 80), "prediction.input_size_voxels=[52,52,52]"


def write(container, dataset, values, begin=RAW_BEGIN):
    volume = create_volume(
        container,
        dataset,
        shape=values.shape,
        dtype=values.dtype,
        voxel_size=VOXEL_SIZE,
        offset=[b * size for b, size in zip(begin, VOXEL_SIZE, strict=True)],
        chunk_shape=(16, 16, 16),
    )
    volume.write(values)
    volume.mark_complete()


@pytest.fixture(scope="session")
def write_volume():
    return write


class Laboratory:
    """A volume, a tracked training run with two checkpoints, and what it takes to predict with it."""

    def __init__(self, folder, enliven):
        self.folder, self.container, self.runs = folder, folder / "data" / "cell.zarr", folder / "runs"
        generator = np.random.default_rng(0)
        write(self.container, "volumes/raw", generator.integers(0, 256, RAW_SHAPE, dtype=np.uint8))
        write(self.container, "volumes/labels/er", generator.integers(0, 2, RAW_SHAPE, dtype=np.uint8))
        mask = np.ones(RAW_SHAPE, dtype=np.uint8)
        mask[:20] = 0
        write(self.container, "volumes/mask", mask)
        self.training_config = load_training_config(
            [],
            [
                "model.num_fmaps=2",
                "model.downsample_factors=[[2,2,2]]",
                f"data.voxel_size={list(VOXEL_SIZE)}",
                "training.input_size_voxels=[44,44,44]",
                "training.output_size_voxels=[26,26,26]",
                "validation.input_size_voxels=[44,44,44]",
                "validation.output_size_voxels=[26,26,26]",
                "training.augmentation.simple=null",
                f"directories.runs={self.runs}",
            ],
        )
        self.network = enliven(build_network(self.training_config.model))
        self.training_store = open_store(None, "trainings", self.runs)
        self.store = open_store(None, "predictions", self.runs)
        run_experiment(
            name="train",
            config=self.training_config.model_dump(mode="json"),
            main=self._register_checkpoints,
            store=self.training_store,
        )
        self.training = self.training_store.get(1)

    def _register_checkpoints(self, run):
        for iteration, dice in ((1, 0.9), (2, 0.5)):
            path = self.runs / "models" / f"{run.id:04d}" / f"model_checkpoint_{iteration}"
            with torch.no_grad():
                self.network.final_conv_pass.conv_pass[0].bias[0] += 0.1
            save_checkpoint(path, self.network)
            run.register_checkpoint(path, iteration, {"dice_class_1": dice})

    def entry(self, **changes):
        values = {"file": "cell.zarr", "voxel_size": VOXEL_SIZE, "raw": "volumes/raw"}
        return values | {"offset": [12, -18, 3], "shape": [25, 30, 28]} | changes

    def wide_entry(self, shape=WIDE):
        """A volume of 18 or more blocks, and labels of it."""
        for dataset, values in (("wide", 256), ("wide_labels", 2)):
            stored = np.random.default_rng(0).integers(0, values, shape, dtype=np.uint8)
            write(self.container, f"volumes/{dataset}", stored)
        entry = self.entry(raw="volumes/wide", labels={"volumes/wide_labels": 1})
        return {**entry, "offset": None, "shape": None}

    def config(self, entries=None, *updates):
        path = self.folder / "predict.json"
        path.write_text(json.dumps(entries or {"cell_er": self.entry()}))
        fixed = [f"prediction.data={path}", f"directories.runs={self.runs}", f"directories.data={self.folder / 'data'}"]
        return load_prediction_config([], [*fixed, "torch.device=cpu", *updates])

    def predict(self, config=None, training=None, **options):
        options.setdefault("store", lambda: self.store)
        return predict_data(config or self.config(), training or self.training, **options)

    def one_shot(self, begin, shape, iteration=1):
        """The network applied once to the whole mirrored volume, cropped."""
        load_checkpoint(self.runs / "models" / "0001" / f"model_checkpoint_{iteration}", self.network)
        raw = np.asarray(zarr.open(str(self.container), mode="r")["volumes/raw"]) / np.float32(255)
        margin = self.network.geometry.context
        size = self.network.geometry.input_for_output(RAW_SHAPE)
        padding = [(m, s - m - r) for m, s, r in zip(margin, size, RAW_SHAPE, strict=True)]
        padded = np.pad(raw, padding, mode="reflect")
        with torch.no_grad():
            whole = torch.softmax(self.network(torch.from_numpy(padded)[None, None] * 2 - 1)[0], 0).numpy()
        crop = [slice(b - o, b - o + s) for b, o, s in zip(begin, RAW_BEGIN, shape, strict=True)]
        return whole[(slice(None), *crop)]


@pytest.fixture
def laboratory(tmp_path, enliven):
    return Laboratory(tmp_path, enliven)


@pytest.fixture
def predicted(monkeypatch):
    """The tiles that are predicted in this process, as they come."""
    tiles = []
    original = TiledPredictor.predict_parts

    def noting(self, read, wanted, depth=None):
        wanted = list(wanted)
        tiles.extend(wanted)
        return original(self, read, wanted, depth)

    monkeypatch.setattr(TiledPredictor, "predict_parts", noting)
    return tiles


@pytest.fixture
def interrupted(laboratory, monkeypatch):
    """A prediction in 18 blocks that was stopped at the fifth as by ctrl-C, and its configuration."""
    config = laboratory.config({"cell_er": laboratory.wide_entry()}, WIDE_TILES, "prediction.log_metrics=true")
    seen = []
    original = TiledPredictor.predict_parts

    def interrupting(self, read, tiles, depth=None):
        seen.append(tiles)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return original(self, read, tiles, depth)

    with monkeypatch.context() as patch:
        patch.setattr(TiledPredictor, "predict_parts", interrupting)
        with pytest.raises(KeyboardInterrupt):
            laboratory.predict(config)
    return config


@pytest.fixture
def start_predict(laboratory):
    """Start the script, in blocks of one tile each, on the data configuration that ``laboratory.config`` wrote last."""

    def started(*flags, updates=(WIDE_TILES,)):
        fixed = [
            f"prediction.data={laboratory.folder / 'predict.json'}",
            f"directories.runs={laboratory.runs}",
            f"directories.data={laboratory.folder / 'data'}",
            "torch.device=cpu",
        ]
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), *flags, "with", "config_prediction.yaml", *fixed, *updates],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


@pytest.fixture
def run_predict(start_predict):
    """Run the script on the data configuration that ``laboratory.config`` wrote last."""

    def ran(*flags, updates=()):
        with start_predict(*flags, updates=updates) as process:
            out, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    return ran


@pytest.fixture
def series(laboratory):
    return SeriesLab(laboratory)


@pytest.fixture
def stopping(monkeypatch):
    """Stop the prediction in process at the n-th block, as ctrl-C would."""
    original = TiledPredictor.predict_parts

    @contextlib.contextmanager
    def stop(at):
        calls = []

        def interrupting(self, read, tiles, depth=None):
            calls.append(tiles)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(self, read, tiles, depth)

        with monkeypatch.context() as patch:
            patch.setattr(TiledPredictor, "predict_parts", interrupting)
            with pytest.raises(KeyboardInterrupt):
                yield

    return stop
