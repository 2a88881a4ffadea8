"""Affinities and shape descriptors by the scripts: trained, killed, continued, and predicted by the id of the run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from scipy import ndimage

from incasem_like.errors import ConfigError, DataError
from incasem_like.training.preflight import check_training
from incasem_like.volumes import create_volume, open_volume

PREDICT = Path(__file__).resolve().parents[2] / "scripts" / "03_predict" / "predict.py"
TARGETS = """
targets:
  - {type: affinities, offsets: [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, -3, 0]], loss: weighted_bce}
  - {type: lsd, sigma: 16, weight: 2.0}
"""


@pytest.fixture(scope="module")
def neurons(tiny_project: Path) -> Path:
    """The tiny project with a label dataset of objects, of which a half is unlabelled, and a configuration for it."""
    ids, _ = ndimage.label(open_volume(tiny_project / "cell.zarr", "volumes/labels/ball").read())
    mask = np.ones(ids.shape, np.uint8)
    mask[:8] = 0
    for name, array in (("volumes/labels/ids", ids.astype(np.uint64) * 10**15), ("volumes/labelled", mask)):
        volume = create_volume(
            tiny_project / "cell.zarr", name, shape=array.shape, dtype=array.dtype, voxel_size=(8, 8, 8)
        )
        volume.write(array)
        volume.mark_complete()
    for name in ("train", "validate"):
        data = json.loads((tiny_project / f"{name}.json").read_text())
        for entry in data.values():
            entry |= {"labels": {"volumes/labels/ids": 1}, "mask": "volumes/labelled"}
        (tiny_project / f"neurons_{name}.json").write_text(json.dumps(data))
    (tiny_project / "neurons.yaml").write_text(TARGETS)
    return tiny_project


@pytest.fixture
def learning(neurons: Path, laboratory: Any) -> list[str]:
    """The command line of a training of them."""
    data = [f"training.data={neurons}/neurons_train.json", f"validation.data={neurons}/neurons_validate.json"]
    return laboratory.new("neurons.yaml", *data, "training.snapshot.every=6", "training.image_every=6")


@pytest.mark.slow
def test_a_killed_training_equals_one_that_was_left_alone_and_its_run_says_what_it_predicts(
    neurons: Path, laboratory: Any, learning: list[str]
) -> None:
    assert laboratory.train(learning) == 0, laboratory.output.read_text()
    assert laboratory.train(learning, {"event": "model half written", "count": 2}) == -signal.SIGKILL
    assert laboratory.train(laboratory.going_on(2)) == 0, laboratory.output.read_text()
    whole, killed = laboratory.store.get(1), laboratory.store.get(2)
    for name in ("model_checkpoint_3", "model_checkpoint_6"):
        contents = [(laboratory.runs / "models" / run / name).read_bytes() for run in ("0001", "0002")]
        assert contents[0] == contents[1], name
    assert {name: list(metric.values) for name, metric in killed.metrics.items()} == {
        name: list(metric.values) for name, metric in whole.metrics.items()
    }
    assert {
        "loss", "loss_train_0", "loss_affinities", "loss_lsd_train", "affinities_dice", "affinities_bce_long_range",
        "affinities_dice_validation_ds_0", "affinities_dice_train", "lsd_mse", "lsd_mse_size", "lsd_mse_train",
    } <= set(whole.metrics)  # fmt: skip
    assert whole.result["best_metric"] == "affinities_dice"
    assert [one["target"] for one in whole.info["targets"]] == ["affinities", "lsd"]

    snapshot: Any = zarr.open(str(laboratory.runs / "snapshots" / "0001" / "training" / "6.zarr"), mode="r")
    assert snapshot["targets/lsd"].shape == (10, 10, 10, 10)
    assert (snapshot["instances"][:] % 10**15 == 0).all()

    done = predict(neurons, laboratory.runs, "prediction.output_dtype=uint8")
    assert done.returncode == 0, done.stderr
    group: Any = zarr.open(str(neurons / "cell.zarr"), mode="r")["volumes/predictions/train_0001/predict_0001"]
    assert sorted(group.array_keys()) == ["affinities", "lsd"]
    affinities, descriptors = group["affinities"].attrs, group["lsd"].attrs
    assert affinities["offsets"] == [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, -3, 0]]
    assert affinities["channel_names"] == ["z-1", "y-1", "x-1", "y-3"]
    assert (affinities["activation"], affinities["scale"]) == ("sigmoid", 255)
    assert (descriptors["sigma"], descriptors["value_range"]) == ([16, 16, 16], [0, 1])
    assert group["lsd"].shape == (10, 20, 20, 20)
    assert group["lsd"][:].std() > 0


def predict(project: Path, runs: Path, *updates: str) -> Any:
    words = [f"prediction.data={project}/validate.json", f"directories.runs={runs}", f"directories.data={project}"]
    return subprocess.run(
        [sys.executable, str(PREDICT), "--run_id", "1", "with", *words, "torch.device=cpu", *updates],
        capture_output=True, text=True, cwd=project, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


Configure = Callable[..., Any]


def on(neurons: Path, targets: str = "[affinities]") -> list[str]:
    return [f"training.data={neurons}/neurons_train.json", "validation.data=null", f"targets={targets}"]


def test_labels_without_objects_are_one_sentence(configure: Configure, neurons: Path, tmp_path: Path) -> None:
    create_volume(
        neurons / "cell.zarr", "volumes/labels/none", shape=(48, 48, 48), dtype="uint64", voxel_size=(8, 8, 8)
    ).mark_complete()
    data = json.loads((neurons / "neurons_train.json").read_text())
    data["left"] |= {"labels": {"volumes/labels/none": 1}, "file": str(neurons / "cell.zarr")}
    (tmp_path / "none.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"Every voxel of training\.data that counts is background in left, so nothing"):
        check_training(configure(*on(neurons), f"training.data={tmp_path}/none.json"))


def test_objects_without_background_teach_affinities_but_no_classes(
    configure: Configure, neurons: Path, tmp_path: Path
) -> None:
    full = create_volume(
        neurons / "cell.zarr", "volumes/labels/full", shape=(48, 48, 48), dtype="uint64", voxel_size=(8, 8, 8),
        overwrite=True,
    )  # fmt: skip
    full.write(np.arange(1, 48**3 + 1, dtype=np.uint64).reshape(48, 48, 48))
    full.mark_complete()
    data = json.loads((neurons / "neurons_train.json").read_text())
    data["left"] |= {"labels": {"volumes/labels/full": 1}, "file": str(neurons / "cell.zarr")}
    (tmp_path / "full.json").write_text(json.dumps(data))
    check_training(configure(*on(neurons), f"training.data={tmp_path}/full.json"))
    with pytest.raises(DataError, match=r"that counts is class 1 in left"):
        check_training(configure(*on(neurons, "[affinities, classes]"), f"training.data={tmp_path}/full.json"))


class Stages(torch.nn.Module):
    """A network that returns two outputs in training."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, volume: torch.Tensor) -> Any:
        logits = self.network(volume)
        return [logits * 0, logits] if self.training else logits


def test_the_losses_of_several_outputs_are_averaged_by_their_weights(make_config: Configure) -> None:
    from incasem_like.training.optimization import Optimization, seeded_network

    raw = torch.rand(1, 1, 8, 8, 8)
    wanted = (raw > 0.5).to(torch.uint8)
    batch = {"raw": raw, "targets": {"boundaries": {"target": wanted, "weight": torch.ones(wanted.shape)}}}

    def loss(weights: Any, wrapped: bool = True) -> float:
        config = make_config(targets=["boundaries"], training={"stage_weights": weights})
        network = seeded_network(config.model, 3)
        update = Optimization(config, Stages(network) if wrapped else network).step(batch, 0.01)
        assert update.logits.shape == wanted.shape
        return update.losses["loss"]

    last, first = loss(None, wrapped=False), float(np.log(2))  # the entropy of logits 0
    assert loss([1, 3]) == pytest.approx((first + 3 * last) / 4, rel=1e-5)
    assert loss(None) == pytest.approx((first + last) / 2, rel=1e-5)


def test_weights_of_other_outputs_than_the_network_has_are_one_sentence(configure: Configure, neurons: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.stage_weights has 2 entries, but the network returns 1 outputs"):
        check_training(configure(*on(neurons), "training.stage_weights=[1,1]"))
