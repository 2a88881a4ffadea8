"""Trainings of networks other than the default: on sections, with several results, and after another network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from incasem_like.config import TrainingConfig
from incasem_like.errors import ConfigError
from incasem_like.networks import build_network, load_checkpoint, save_checkpoint
from incasem_like.training.experiment import train

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
    with pytest.raises(ConfigError, match=r"model\.first_checkpoint is null"):
        train(configure(*AUTO_CONTEXT), store=lambda: None)
    (tmp_path / "first").touch()
    config = configure(*AUTO_CONTEXT, f"model.first_checkpoint={tmp_path}/first", "training.iterations=1")
    first = build_network(config.model.first)  # type: ignore[attr-defined]
    save_checkpoint(tmp_path / "first", first)
    finished = train(config, store=lambda: None)
    stored = load_checkpoint(finished.folders.models / "model_checkpoint_1").network_state
    assert all(torch.equal(stored[f"first.{name}"], value) for name, value in first.state_dict().items())
