"""incasem's configurations become this project's, and checkpoints tell which network they are of."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained import incasem_runs
from pretrained.small_models import checkpoint_bytes, make_network

from incasem_like.config import ModelConfig, TrainingConfig, load_training_config, resolve_training_config
from incasem_like.errors import CheckpointError, ConfigError, InputError
from incasem_like.networks import build_network, read_checkpoint
from incasem_like.networks.checkpoints import as_checkpoint
from incasem_like.pretrained.checkpoint_run import (
    check_fits,
    read_imported,
    read_whole,
    recognize,
    run_of_checkpoint,
    updates_seen,
)
from incasem_like.pretrained.databases import MockDb, is_mock_db
from incasem_like.pretrained.foreign import parent_of, translate
from incasem_like.pretrained.manifest import read_manifest

DEFAULTS = load_training_config([])


def test_a_configuration_of_incasem_is_valid_here_and_says_the_same() -> None:
    found = translate(incasem_runs.CONFIG, "of run 1841")
    config = resolve_training_config(found.config)
    assert (config.training.iterations, config.seed) == (90000, 717968059)
    assert (config.model, config.loss, config.data) == (DEFAULTS.model, DEFAULTS.loss, DEFAULTS.data)
    assert found.config["directories"] == {"runs": "/nfs/scratch/lab/training_runs", "data": "~/incasem/data"}
    assert (found.left_out, found.replaced) == (("directories.db",), ())


def test_what_an_old_configuration_lacks_has_the_default_of_incasem() -> None:
    found = translate({"model": {"num_fmaps": 12}}, "of run 3")
    expected = TrainingConfig.model_validate({"model": {"num_fmaps": 12}})
    assert TrainingConfig.model_validate(found.config).model_dump(exclude={"directories"}) == expected.model_dump(
        exclude={"directories"}
    )


def test_numbers_kept_as_text_and_objects_of_the_serializer_become_numbers() -> None:
    original = incasem_runs.config()
    original["training"] |= {"iterations": "15000", "optimizer": {"lr": "3e-05", "weight_decay": 0}}
    original["torch"]["device"] = "0"
    original["seed"] = {"py/object": "numpy.int64", "dtype": "int64", "value": 7}
    original["data"]["voxel_size"] = {"py/tuple": [4, 4, 4]}
    config = resolve_training_config(translate(original, "of run 1967").config)
    assert (config.training.iterations, config.training.optimizer.lr) == (15000, 3e-5)
    assert (config.torch.device_name, config.seed, config.data.voxel_size) == ("cuda:0", 7, (4, 4, 4))


def test_a_value_that_cannot_be_used_gives_way_to_the_default() -> None:
    original = incasem_runs.config()
    original["training"]["save_every"] = "often"
    original["training"]["augmentation"] = None
    found = translate(original, "of run 5")
    assert set(found.replaced) == {"training.save_every", "training.augmentation"}
    assert resolve_training_config(found.config).training.save_every == 1000


@pytest.mark.parametrize(("section", "key", "value"), [("model", "type", "MultitaskUnet"), ("data", "voxel_size", [5])])
def test_a_wrong_network_or_voxel_size_is_not_guessed(section: str, key: str, value: Any) -> None:
    original = incasem_runs.config()
    original[section][key] = value
    with pytest.raises(ConfigError, match=rf"{section}\.{key}.*of run 9"):
        translate(original, "of run 9")


def test_unequal_voxels_do_not_stop_a_training_that_exchanged_axes_all_the_same() -> None:
    original = incasem_runs.config()
    original["data"]["voxel_size"] = [5, 4, 4]
    found = translate(original, "of run 5")
    config = resolve_training_config(found.config)
    assert config.data.voxel_size == (5, 4, 4)
    assert (config.training.iterations, config.training.augmentation.simple) == (90000, None)
    assert found.replaced == ("training",)


@pytest.mark.parametrize(
    ("training", "parent"),
    [
        ({"start_from": [1847, "~/x.pt"]}, {"training_run_id": 1847, "checkpoint": "~/x.pt"}),
        ({"start_from": {"py/tuple": [1847, "x.pt"]}}, {"training_run_id": 1847, "checkpoint": "x.pt"}),
        ({"continue_id": 12}, {"training_run_id": 12}),
        ({"start_from": False}, None),
        ({}, None),
    ],
)
def test_the_parent_of_a_fine_tuned_model_is_known(training: dict[str, Any], parent: dict[str, Any] | None) -> None:
    original = incasem_runs.config()
    original["training"] |= training
    assert parent_of(original) == parent
    assert resolve_training_config(translate(original, "of run 5").config).training.iterations == 90000


@pytest.mark.parametrize(
    "values",
    [
        {"num_fmaps": 3},
        {"num_fmaps": 2, "fmap_inc_factor": 3, "downsample_factors": [[2, 2, 2], [2, 2, 2]]},
        {"num_fmaps": 2, "num_fmaps_out": 5, "in_channels": 2},
        {"num_fmaps": 2, "constant_upsample": False, "downsample_factors": [[1, 2, 2], [2, 3, 3]]},
        {
            "num_fmaps": 2,
            "downsample_factors": [[2, 2, 2]],
            "kernel_size_down": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 3],
            "kernel_size_up": [[[1, 3, 3], [3, 3, 3]]],
        },
        {"type": "OneConv3d", "num_fmaps_out": 3},
    ],
)
def test_a_network_is_told_by_its_tensors(values: dict[str, Any]) -> None:
    model = ModelConfig.model_validate(values)
    found, assumed = recognize(build_network(model).state_dict(), Path("x.pt"))
    assert ModelConfig.model_validate(found) == model
    told = values.get("constant_upsample") is False or values.get("type") == "OneConv3d"
    assert assumed == (() if told else ("downsample_factors",))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"encoder.weight": torch.zeros(2)}, "not a Unet with incasem"),
        ({"conv_pass_task.conv_pass.0.weight": torch.zeros(2)}, "MultitaskUnet"),
        (
            {
                name: torch.zeros(2, 2, 3, 3)
                for name in (
                    "unet.l_conv.0.conv_pass.0.weight",
                    "unet.l_conv.1.conv_pass.0.weight",
                    "final_conv_pass.conv_pass.0.weight",
                )
            },
            "has 4 axes",
        ),
    ],
)
def test_another_network_is_refused(state: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        recognize(state, Path("x.pt"))


@pytest.mark.parametrize("updates", [90001, None])
def test_the_optimizer_tells_how_often_the_network_was_updated(tmp_path: Path, updates: int | None) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(checkpoint_bytes(make_network(), updates))
    assert updates_seen(read_checkpoint(path)) == updates
    found = read_imported(path)
    assert (found.iteration, found.iteration_known) == (updates or 0, updates is not None)
    assert read_imported(path, iteration=7).iteration == 7


def test_a_published_checkpoint_alone_becomes_a_run_of_its_model(checkpoint_file: Path) -> None:
    model = read_manifest().models[1675]
    run = run_of_checkpoint(read_imported(checkpoint_file), run_id=1675, model=model)
    config = resolve_training_config(run.document["config"])
    assert (run.id, run.name, config.data.voxel_size) == (1675, "mito_HPF", (4, 4, 4))
    assert (config.model.num_fmaps, config.model.downsample_factors) == (2, ((2, 2, 2),))
    assert run.document["info"]["model"]["organelle"] == "mitochondria"
    check_fits(read_imported(checkpoint_file), run.document["config"])


def test_blocks_of_an_unusual_network_have_sizes_that_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(checkpoint_bytes(make_network(num_fmaps_out=4)))
    run = run_of_checkpoint(read_imported(path), run_id=1, voxel_size=(40, 4, 4))
    config = resolve_training_config(run.document["config"])
    network = make_network(num_fmaps_out=4)
    size = config.training.input_size_voxels
    assert network(torch.zeros(1, 1, *size))[0, 0].shape == config.training.output_size_voxels
    assert (config.data.num_classes, config.loss.weight) == (4, (1.0,) * 4)


def test_what_the_tensors_do_not_tell_comes_from_a_file(tmp_path: Path) -> None:
    path, file = tmp_path / "x.pt", tmp_path / "config.yaml"
    path.write_bytes(checkpoint_bytes(make_network(downsample_factors=[[1, 2, 2]])))
    file.write_text(json.dumps({"model": {"downsample_factors": [[1, 2, 2]], "num_fmaps": 99}, "seed": 5}))
    run = run_of_checkpoint(read_imported(path), run_id=1, voxel_size=(5, 5, 5), config_file=file)
    config = resolve_training_config(run.document["config"])
    assert (config.model.downsample_factors, config.model.num_fmaps, config.seed) == (((1, 2, 2),), 2, 5)


def test_a_checkpoint_of_unknown_voxel_size_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(checkpoint_bytes(make_network()))
    with pytest.raises(InputError, match="--voxel_size"):
        run_of_checkpoint(read_imported(path), run_id=1)


def test_a_ledger_leads_to_trainings_and_leaves_predictions_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    er = incasem_runs.config() | {"prediction": {"run_id_training": 1841, "checkpoint": "/root/x.pt"}}
    prediction = incasem_runs.config() | {"prediction": {"run_id_training": 1841}}
    for name, content in (("er_1841.json", er), ("mine_1842.json", prediction)):
        (tmp_path / name).write_text(json.dumps(content))
    ledger = {"1841": "er_1841.json", "1842": "mine_1842.json", "1847": "mito_1847.json"}
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    assert is_mock_db(tmp_path)
    (run,) = MockDb(tmp_path).runs()
    assert "Run 1842 is left out: it is a prediction with run 1841" in caplog.text
    assert "Run 1847 is left out: its file mito_1847.json is missing" in caplog.text
    assert (run.id, run.name, run.document["config"]["training"]["iterations"]) == (1841, "er", 90000)
    assert run.document["info"]["original_config"]["prediction"]["checkpoint"] == "/root/x.pt"


@pytest.mark.parametrize("ledger", ["[]", '{"er": "x.json"}', '{"1": 2}'])
def test_a_ledger_of_another_form_is_refused(tmp_path: Path, ledger: str) -> None:
    (tmp_path / "ledger.json").write_text(ledger)
    with pytest.raises(InputError, match="not a ledger"):
        MockDb(tmp_path)


def test_a_changed_bit_in_a_tensor_is_noticed(checkpoint_file: Path) -> None:
    content = bytearray(checkpoint_file.read_bytes())
    weights = make_network().get_parameter("final_conv_pass.conv_pass.0.weight").detach().numpy().tobytes()
    content[content.index(weights) + 5] ^= 1
    checkpoint_file.write_bytes(content)
    read_checkpoint(checkpoint_file)
    with pytest.raises(CheckpointError, match="checksum"):
        read_imported(checkpoint_file)


def test_a_damaged_checkpoint_file_is_one_sentence_or_as_good_as_whole(checkpoint_file: Path) -> None:
    content, source, refused = checkpoint_file.read_bytes(), random.Random(0), 0
    expected = make_network().state_dict()
    for _ in range(100):
        spoilt = bytearray(content[: source.randrange(1, len(content))] if source.random() < 0.3 else content)
        for _ in range(source.randrange(1, 8)):
            spoilt[source.randrange(min(len(spoilt), 3000))] ^= 1 << source.randrange(8)
        checkpoint_file.write_bytes(spoilt)
        try:
            found = as_checkpoint(read_whole(checkpoint_file), checkpoint_file).network_state
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert refused > 50
