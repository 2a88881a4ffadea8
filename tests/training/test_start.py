"""A new training that starts from another one's weights: which ones, with what of the optimizer, and on record."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from incasem_like.config import TrainingConfig
from incasem_like.errors import CheckpointError, RunNotFoundError
from incasem_like.networks import load_checkpoint, save_checkpoint
from incasem_like.tracking import Run, RunStore, file_sha256, open_store, run_experiment
from incasem_like.training.experiment import train
from incasem_like.training.optimization import Optimization, seeded_network
from incasem_like.training.start import find_start

MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture
def parent(make_config: MakeConfig, make_trainer: Callable[..., Any], tmp_path: Path) -> RunStore:
    """The store of a run 1 with checkpoints of iterations 2, 4 and 6, of which 4 is the best."""
    trainer = make_trainer("parent", dice={2: 0.1, 4: 0.9, 6: 0.3})
    trainer.fit()
    store = open_store(None, "trainings", tmp_path / "runs")

    def register(run: Run) -> None:
        for iteration, (path, metrics) in trainer.parts.run.checkpoints.items():
            run.register_checkpoint(path, iteration, metrics)

    run_experiment(name="train", config=make_config().model_dump(mode="json"), main=register, store=store)
    return store


def starting(make_config: MakeConfig, lr: float = 0.5, **start: Any) -> TrainingConfig:
    return make_config(training={"start_from": start, "optimizer": {"lr": lr, "weight_decay": 0.25}})


def optimization(config: TrainingConfig) -> Optimization:
    assert config.seed is not None
    return Optimization(config, seeded_network(config.model, config.seed))


def test_a_checkpoint_is_named_by_rank_iteration_or_path(
    parent: RunStore, make_config: MakeConfig, tmp_path: Path
) -> None:
    last = str(tmp_path / "parent/model_checkpoint_6")
    for which, iteration in ((None, 4), ("best", 4), ("last", 6), ("2", 2), (2, 2), (last, 6)):
        start = find_start(starting(make_config, run_id=1, checkpoint=which), lambda: parent)
        assert start is not None
        path = tmp_path / f"parent/model_checkpoint_{iteration}"
        assert start.lineage == {
            "training_run_id": 1, "checkpoint": str(path), "sha256": file_sha256(path), "iteration": iteration,
        }  # fmt: skip


def test_nothing_is_started_from_unless_it_is_asked_for(make_config: MakeConfig) -> None:
    assert find_start(make_config(), lambda: pytest.fail("no store is needed")) is None


@pytest.mark.parametrize("kept", ["reset", "keep"])
def test_weights_are_taken_and_moments_as_asked_while_the_new_settings_count(
    parent: RunStore, make_config: MakeConfig, kept: str
) -> None:
    config = starting(make_config, run_id=1, checkpoint="last", optimizer=kept)
    start, fresh = find_start(config, lambda: parent), optimization(config)
    assert start is not None
    start.load(fresh)
    saved = load_checkpoint(start.path)
    assert saved.optimizer_state is not None
    assert all(torch.equal(value, saved.network_state[name]) for name, value in fresh.network.state_dict().items())
    moments = fresh.optimizer.state_dict()["state"]
    if kept == "reset":
        assert moments == {}
    else:
        assert all(torch.equal(moments[0][name], value) for name, value in saved.optimizer_state["state"][0].items())
    assert [(group["lr"], group["weight_decay"]) for group in fresh.optimizer.param_groups] == [(0.5, 0.25)]


def test_bare_weights_of_no_run_do_without_their_optimizer_but_cannot_keep_it(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = starting(make_config, checkpoint=str(tmp_path / "published.pt"))
    network = seeded_network(config.model, 99)
    torch.save(network.state_dict(), tmp_path / "published.pt")
    start, fresh = find_start(config, lambda: pytest.fail("no store is needed")), optimization(config)
    assert start is not None
    start.load(fresh)
    assert torch.equal(next(fresh.network.parameters()), next(network.parameters()))
    assert (start.lineage["training_run_id"], start.lineage["iteration"]) == (None, None)
    for content in (network.state_dict(), {"model_state_dict": network.state_dict(), "optimizer_state_dict": {}}):
        torch.save(content, tmp_path / "published.pt")
        keeping = starting(make_config, checkpoint=str(tmp_path / "published.pt"), optimizer="keep")
        with pytest.raises(CheckpointError, match=r"no optimizer state .* set training\.start_from\.optimizer=reset"):
            find_start(keeping, lambda: pytest.fail("no store is needed"))


def test_what_cannot_be_started_from_is_one_sentence(parent: RunStore, make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"choose best, last or one of the iterations 2, 4, 6"):
        find_start(starting(make_config, run_id=1, checkpoint=3), lambda: parent)
    with pytest.raises(RunNotFoundError, match="no training run 8"):
        find_start(starting(make_config, run_id=8), lambda: parent)
    with pytest.raises(CheckpointError, match=r"The checkpoint .*gone\.pt does not exist"):
        find_start(starting(make_config, checkpoint=str(tmp_path / "gone.pt")), lambda: parent)
    (tmp_path / "parent/model_checkpoint_4").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="model_checkpoint_4"):
        find_start(starting(make_config, run_id=1, checkpoint=4), lambda: parent)
    other = make_config(model={"type": "Unet", "num_fmaps": 2}, training={"start_from": 1})
    with pytest.raises(CheckpointError, match="belongs to another architecture"):
        find_start(other.model_copy(update={"training": starting(make_config, run_id=1, checkpoint=2).training}),
                   lambda: parent)  # fmt: skip


def test_a_fine_tuned_training_starts_where_its_parent_was_and_names_it(
    configure: Callable[..., TrainingConfig], store_of: Callable[..., RunStore], tmp_path: Path
) -> None:
    config = configure("training.iterations=1", "validation.data=null", "training.optimizer.lr=1e-9")
    weights = tmp_path / "weights.pt"
    save_checkpoint(weights, seeded_network(config.model, 12345))
    store = store_of(config)
    start = {"start_from": config.training.start_from.model_copy(update={"checkpoint": str(weights)})}
    tuned = config.model_copy(update={"training": config.training.model_copy(update=start)})
    finished = train(tuned, store=lambda: store)
    after = load_checkpoint(finished.folders.models / "model_checkpoint_1").network_state
    before = load_checkpoint(weights).network_state
    assert all(torch.allclose(after[name], value, atol=1e-6) for name, value in before.items())
    record = store.get(1)
    assert record.parent["sha256"] == file_sha256(weights)
    assert record.config["training"]["start_from"]["checkpoint"] == str(weights)
    assert train(config, store=lambda: store).folders.run_id == 2
    assert store.get(2).parent is None
