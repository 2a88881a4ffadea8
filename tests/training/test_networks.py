"""Trainings of networks other than the default: on sections, with several results, and after another network."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from incasem_like.config import TrainingConfig, resolve_training_config
from incasem_like.errors import ConfigError, InputError
from incasem_like.networks import build_network, load_checkpoint, save_checkpoint
from incasem_like.tracking import Run, RunRecord, RunStore, open_store, run_experiment
from incasem_like.training.experiment import train
from incasem_like.training.trainer import Trainer

Configure = Callable[..., TrainingConfig]
SECTIONS = (
    *("model.downsample_factors=[[2,2]]", "training.augmentation.simple.transpose_only=[1,2]"),
    *("training.output_size_voxels=[1,10,10]", "validation.output_size_voxels=[1,18,18]"),
)
NETWORKS = {
    "2-D": (*SECTIONS, "training.input_size_voxels=[1,28,28]", "validation.input_size_voxels=[1,36,36]"),
    "2.5-D": (
        *(*SECTIONS, "training.input_size_voxels=[3,28,28]", "validation.input_size_voxels=[3,36,36]"),
        *("model.adjacent_sections=3", "torch.channels_last=true"),
    ),
    "padded": (
        *("model.padding=same", "model.normalization=batch", "training.batch_size=2"),
        *("training.input_size_voxels=[12,12,12]", "training.output_size_voxels=[12,12,12]"),
        *("validation.input_size_voxels=[32,32,32]", "validation.output_size_voxels=[32,32,32]"),
    ),
    "hourglass": (
        *("model.type=StackedHourglass", "model.num_stacks=2", "model.halo=[4,4,4]"),
        *("training.input_size_voxels=[12,12,12]", "training.output_size_voxels=[12,12,12]"),
        *("validation.input_size_voxels=[20,20,20]", "validation.output_size_voxels=[20,20,20]"),
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_trained_validated_and_stored(configure: Configure, kind: str) -> None:
    config = configure("training.iterations=2", "training.save_every=2", "validation.validate_every=2", *NETWORKS[kind])
    finished = train(config, store=lambda: None)
    network = build_network(config.model)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load_checkpoint(finished.folders.models / "model_checkpoint_2", network)
    assert any(not torch.equal(before[name], value) for name, value in network.state_dict().items())
    snapshots = list((finished.folders.snapshots / "validation" / "right").glob("*.zarr"))
    assert snapshots


AUTO_CONTEXT = (
    *("model.type=AutoContext", "model.num_fmaps=2", "model.downsample_factors=[[2,2,2]]"),
    *("model.first.num_fmaps=3", "model.first.num_fmaps_out=4", "model.first.downsample_factors=[[2,2,2]]"),
    *("training.input_size_voxels=[40,40,40]", "training.output_size_voxels=[4,4,4]", "validation.data=null"),
)


def test_auto_context_starts_with_the_weights_of_its_first_network_and_keeps_them(
    configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"model\.first_run_id and model\.first_checkpoint are null"):
        train(configure(*AUTO_CONTEXT), store=lambda: None)
    (tmp_path / "first").touch()
    config = configure(*AUTO_CONTEXT, f"model.first_checkpoint={tmp_path}/first", "training.iterations=1")
    first = build_network(config.model.first)  # type: ignore[attr-defined]
    save_checkpoint(tmp_path / "first", first)
    finished = train(config, store=lambda: None)
    stored = load_checkpoint(finished.folders.models / "model_checkpoint_1").network_state
    assert all(torch.equal(stored[f"first.{name}"], value) for name, value in first.state_dict().items())


def first_run(configure: Configure, store: RunStore) -> RunRecord:
    """A training of a first network, which registers two checkpoints of which the first is best."""
    config = configure("model.num_fmaps=3", "model.downsample_factors=[[2,2,2]]")

    def register(run: Run) -> None:
        for iteration, dice in ((1, 0.9), (2, 0.5)):
            path = config.directories.runs / "models" / f"{run.id:04d}" / f"model_checkpoint_{iteration}"
            save_checkpoint(path, build_network(config.model))
            run.register_checkpoint(path, iteration, {"dice_class_1": dice})

    run_experiment(name="train", config=config.model_dump(mode="json"), main=register, store=store)
    return store.get(1)


BY_RUN = (
    *("model.type=AutoContext", "model.num_fmaps=2", "model.downsample_factors=[[2,2,2]]", "model.first_run_id=1"),
    *("training.input_size_voxels=[40,40,40]", "training.output_size_voxels=[4,4,4]", "validation.data=null"),
    *("training.iterations=2", "training.save_every=1"),
)


@pytest.mark.parametrize(("policy", "iteration"), [("null", 1), ("last", 2), ("2", 2)])
def test_the_first_network_is_found_by_its_run(configure: Configure, policy: str, iteration: int) -> None:
    config = configure(*BY_RUN, f"model.first_checkpoint={policy}")
    store = open_store(None, "trainings", config.directories.runs)
    first = first_run(configure, store)
    train(config, store=lambda: store)
    record = store.get(2)
    wanted = first.checkpoint(str(iteration))
    assert record.parent["training_run_id"] == 1
    assert (record.parent["sha256"], record.parent["role"]) == (wanted.sha256, "first network")
    assert record.config["model"]["first"]["num_fmaps"] == 3
    assert [child.id for child in store.children(1)] == [2]
    stored = load_checkpoint(record.checkpoint("last").fetch()).network_state
    expected = load_checkpoint(wanted.fetch()).network_state
    assert all(torch.equal(stored[f"first.{name}"], value) for name, value in expected.items())


def test_a_run_on_a_first_network_is_resumed_without_it_and_begins_again_with_the_same(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(*BY_RUN)
    store = open_store(None, "trainings", config.directories.runs)
    first = first_run(configure, store)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda trainer: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config, store=lambda: store)
    sha256 = store.get(2).parent["sha256"]
    entries = [{**entry, "metrics": {"dice_class_1": index}} for index, entry in enumerate(first.info["checkpoints"])]
    store.note(1, {"checkpoints": entries})  # now another one is best
    assert store.get(1).checkpoint("best").sha256 != sha256
    tracked = resolve_training_config(store.get(2).config, directories=config.directories)
    train(tracked, store=lambda: store, continued=store.get(2))
    assert store.get(2).parent["sha256"] == sha256
    shutil.rmtree(config.directories.runs / "models" / "0001")
    longer = tracked.model_copy(update={"training": tracked.training.model_copy(update={"iterations": 3})})
    train(longer, store=lambda: store, continued=store.get(2))
    assert store.get(2).checkpoint("last").iteration == 3


@pytest.mark.parametrize(
    ("updates", "sentence"),
    [
        (["model.first_run_id=7"], "7"),
        (["model.first_checkpoint=5"], "5"),
        (["data.voxel_size=[4,4,4]"], r"was trained with data\.voxel_size=\[8\.0, 8\.0, 8\.0\]"),
    ],
)
def test_a_first_network_that_cannot_be_used_is_one_sentence(
    configure: Configure, updates: list[str], sentence: str
) -> None:
    config = configure(*BY_RUN, *updates)
    store = open_store(None, "trainings", config.directories.runs)
    first_run(configure, store)
    with pytest.raises(InputError, match=sentence):
        train(config, store=lambda: store)
    assert store.ids() == [1]


def test_a_checkpoint_policy_needs_a_run(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"model\.first_checkpoint is best, but of no training run"):
        configure("model.type=AutoContext", "model.first_checkpoint=best")
