import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from incasem_like.errors import CheckpointError, IncasemError
from incasem_like.training.state import TrainingState
from incasem_like.training.trainer import Trainer

MakeTrainer = Callable[..., Trainer]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.parts.optimization.network.state_dict()


def moments(trainer: Trainer) -> list[torch.Tensor]:
    states = trainer.parts.optimization.optimizer.state_dict()["state"].values()
    return [value for state in states for value in state.values()]


def assert_equal_training(one: Trainer, other: Trainer) -> None:
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
    for a, b in zip(moments(one), moments(other), strict=True):
        assert torch.equal(a, b)
    assert one.result() == other.result()
    assert one.best == other.best


def interrupting(trainer: Trainer, iteration: int) -> Callable[[int, int], Iterator[Any]]:
    """Batches during whose making a ctrl-C comes."""
    make = trainer.parts.batches

    def batches(start: int, stop: int) -> Iterator[Any]:
        for number, batch in enumerate(make(start, stop), start=start):
            if number == iteration:
                signal.raise_signal(signal.SIGINT)
            yield batch

    return batches


def test_six_iterations_equal_three_restored_and_three(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    schedule = {"type": "cosine", "warmup_iterations": 2}
    changes: dict[str, Any] = {"training": {"save_every": 3, "learning_rate_schedule": schedule}}
    dice = {3: 0.5, 6: 0.4}
    whole = make_trainer("whole", dice=dice, **changes)
    whole.fit()
    torch.manual_seed(99)  # whatever else the second process did with torch's generator must not matter
    rest = make_trainer("rest", dice=dice, **changes)
    rest.restore(tmp_path / "whole" / "model_checkpoint_3")
    assert rest.iteration == 3
    rest.fit()
    assert_equal_training(whole, rest)
    for name in ("loss_train_0", "dice_class_1_train", "pct_class_1"):
        late = {step: value for step, value in whole.parts.run.values(name).items() if step > 3}
        assert rest.parts.run.values(name) == late
    assert (tmp_path / "whole/model_checkpoint_6").read_bytes() == (tmp_path / "rest/model_checkpoint_6").read_bytes()
    states = [TrainingState.load(tmp_path / name / "training_state_6") for name in ("whole", "rest")]
    assert all(torch.equal(state.random.pop("cpu"), torch.get_rng_state()) for state in states)
    assert states[0] == states[1]


OPTIONS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": {"type": "adamw", "weight_decay": 0.1}},
    "rmsprop": {"optimizer": {"type": "rmsprop", "momentum": 0.5}},
    "sgd": {"optimizer": {"type": "sgd", "momentum": 0.9}},
    "polynomial": {"learning_rate_schedule": {"type": "polynomial", "warmup_iterations": 2}},
    "plateau": {"learning_rate_schedule": {"type": "plateau", "patience": 0}},
    "clipping": {"clip_gradient_norm": 0.01},
    "average": {"ema_decay": 0.8},
    "early stopping": {"early_stopping": 2},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_restored_training_with_an_option_equals_one_that_never_stopped(
    make_trainer: MakeTrainer, tmp_path: Path, option: str
) -> None:
    changes = {"training": {"iterations": 8, **OPTIONS[option]}}
    dice = {2: 0.5, 4: 0.5, 6: 0.4, 8: 0.6}
    whole, rest = (make_trainer(name, dice=dice, **changes) for name in ("whole", "rest"))
    whole.fit()
    rest.restore(tmp_path / "whole/model_checkpoint_4")
    rest.fit()
    assert_equal_training(whole, rest)
    last = f"model_checkpoint_{whole.iteration}"
    assert (tmp_path / "whole" / last).read_bytes() == (tmp_path / "rest" / last).read_bytes()
    plain = make_trainer("plain", dice=dice, training={"iterations": 8})
    plain.fit()
    stops = option == "early stopping"
    assert ((tmp_path / "plain" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()) == stops
    assert whole.iteration == (6 if stops else 8)


def test_a_training_stops_early_after_validations_without_improvement(make_trainer: MakeTrainer) -> None:
    dice = {2: 0.1, 4: 0.3, 6: 0.3, 8: 0.2, 10: 0.9}
    trainer = make_trainer(dice=dice, training={"iterations": 10, "save_every": 5, "early_stopping": 2})
    assert trainer.fit()["iteration"] == 8
    assert trainer.parts.checkpoints.iterations() == [5, 6, 8]  # of equal values the latest is the best


def test_training_learns_and_reports(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dice={2: 0.2, 4: 0.6, 60: 0.3}, training={"iterations": 60, "optimizer": {"lr": 0.05}})
    result = trainer.fit()
    losses = trainer.parts.run.values("loss_train_0")
    assert list(losses) == list(range(1, 61))
    assert losses[60] < 0.5 * losses[1]
    assert result == {
        "iteration": 60, "loss": losses[60], "best_metric": "dice_class_1", "best_value": 0.6, "best_iteration": 4,
    }  # fmt: skip


def test_checkpoints_on_disk_and_in_the_run_follow_the_policy(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dice={2: 0.9}, training={"iterations": 11, "checkpoints": {"keep_last": 2}})
    trainer.fit()
    assert trainer.parts.checkpoints.iterations() == [2, 8, 10, 11]
    assert sorted(trainer.parts.run.checkpoints) == [2, 8, 10, 11]
    path, metrics = trainer.parts.run.checkpoints[2]
    assert path == trainer.parts.checkpoints.model(2)
    assert metrics["dice_class_1"] == 0.9
    assert "dice_class_1" in trainer.parts.run.checkpoints[11][1]


def test_validation_runs_at_its_interval_and_at_the_end(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dice={}, training={"iterations": 7}, validation={"validate_every": 3})
    trainer.fit()
    assert trainer.parts.validation.asked == [3, 6, 7]


def test_a_best_validation_between_two_checkpoints_is_saved(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        dice={3: 0.9}, training={"iterations": 10, "save_every": 5}, validation={"validate_every": 3}
    )
    trainer.fit()
    assert trainer.parts.checkpoints.iterations() == [3, 5, 10]


def test_an_undefined_metric_is_never_best(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(dice={2: math.nan, 4: math.nan, 6: math.nan})
    assert trainer.fit()["best_iteration"] is None
    assert trainer.fit()["best_value"] is None


def test_ctrl_c_saves_the_last_finished_iteration_and_resuming_leaves_no_trace(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    dice = {2: 0.3, 4: 0.5, 6: 0.4}
    whole = make_trainer("whole", dice=dice)
    whole.fit()
    stopped = make_trainer("stopped", dice=dice)
    stopped = make_trainer("stopped", dice=dice, batches=interrupting(stopped, 4))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert stopped.parts.checkpoints.iterations() == [2, 3]
    assert sorted(stopped.parts.run.checkpoints) == [2, 3]
    resumed = make_trainer("stopped", dice=dice)
    resumed.restore(tmp_path / "stopped" / "model_checkpoint_3")
    resumed.fit()
    assert_equal_training(whole, resumed)
    assert resumed.parts.checkpoints.iterations() == whole.parts.checkpoints.iterations()


def test_termination_that_ends_the_loader_too_saves_the_last_finished_iteration(make_trainer: MakeTrainer) -> None:
    def killed(start: int, stop: int) -> Iterator[dict[str, torch.Tensor]]:
        yield from fake(start, 4)
        signal.raise_signal(signal.SIGTERM)  # to the whole process group, as a cluster's scheduler sends it
        raise IncasemError("One of the 2 processes that make samples died")

    fake = make_trainer().parts.batches
    trainer = make_trainer(batches=killed)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert trainer.parts.checkpoints.iterations() == [2, 3]


def test_ctrl_c_before_the_first_update_saves_nothing(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer = make_trainer(batches=interrupting(trainer, 1))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.parts.checkpoints.iterations() == []


def test_a_validation_cut_short_is_done_again_after_resuming(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    dice = {2: 0.3, 4: 0.5, 6: 0.4}
    whole = make_trainer("whole", dice=dice)
    whole.fit()
    stopped = make_trainer("stopped", dice=dice)
    stopped.parts.validation.before = lambda iteration: signal.raise_signal(signal.SIGINT) if iteration == 4 else None
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert TrainingState.load(tmp_path / "stopped/training_state_4").pending
    resumed = make_trainer("stopped", dice=dice)
    resumed.restore(tmp_path / "stopped/model_checkpoint_4")
    resumed.fit()
    assert resumed.parts.validation.asked == [4, 6]
    assert_equal_training(whole, resumed)
    assert sorted(resumed.parts.run.checkpoints) == [4, 6]
    assert resumed.parts.checkpoints.iterations() == whole.parts.checkpoints.iterations()


def test_restoring_an_earlier_checkpoint_removes_the_later_ones(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    make_trainer("run").fit()
    again = make_trainer("run")
    again.restore(tmp_path / "run/model_checkpoint_2")
    assert again.parts.checkpoints.iterations() == [2]


def test_a_loss_that_is_not_finite_names_the_iteration_and_keeps_the_last_checkpoint(make_trainer: MakeTrainer) -> None:
    good = make_trainer()

    def batches(start: int, stop: int) -> Iterator[Any]:
        for number, batch in enumerate(good.parts.batches(start, stop), start=start):
            if number == 5:
                batch["raw"][0, 0, 0, 0, 0] = math.nan
            yield batch

    trainer = make_trainer(batches=batches)
    with pytest.raises(IncasemError, match=r"became nan at iteration 5 \(the last checkpoint, 4, is kept\)"):
        trainer.fit()
    assert trainer.parts.checkpoints.iterations() == [2, 4]
    assert all(value.isfinite().all() for value in weights(trainer).values())


def test_a_gradient_that_is_not_finite_changes_nothing_and_names_the_iteration(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    weight = next(trainer.parts.optimization.network.parameters())
    count = 0

    def overflow(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return gradient * (math.inf if count == 4 else 1)

    weight.register_hook(overflow)
    with pytest.raises(
        IncasemError, match=r"^The gradient became (inf|nan) at iteration 4 \(the last checkpoint, 2, is"
    ):
        trainer.fit()
    assert all(value.isfinite().all() for value in weights(trainer).values())


def test_accumulated_parts_give_the_gradient_of_the_whole_batch(make_trainer: MakeTrainer) -> None:
    def of_four(start: int, stop: int) -> Iterator[Any]:
        for number in range(start, stop):
            yield default_collate([{key: _alone(value) for key, value in batch.items()}
                                   for batch in make_trainer().parts.batches(4 * number, 4 * number + 4)])  # fmt: skip

    def _alone(value: Any) -> Any:
        return {key: _alone(one) for key, one in value.items()} if isinstance(value, dict) else value[0]

    sizes = {"batch_size": 4, "optimizer": {"type": "sgd", "lr": 0.5}, "clip_gradient_norm": 0.1}
    whole = make_trainer("whole", batches=of_four, training=sizes)
    parts = make_trainer("parts", batches=of_four, training={**sizes, "accumulate": 2})
    before = {name: value.clone() for name, value in weights(whole).items()}
    for trainer in (whole, parts):
        trainer.fit()
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(parts)[name], atol=1e-6)
        # each of the six updates is at most lr * 0.1 long
        assert 0 < (value - before[name]).norm() <= 6 * 0.5 * 0.1 + 1e-6
    assert whole.metrics["loss_train_0"] == pytest.approx(parts.metrics["loss_train_0"], rel=1e-5)


def test_dead_feature_maps_are_reported_once(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    network = {"type": "Unet", "num_fmaps": 6, "downsample_factors": [[2, 2, 2]], "padding": "same"}
    network["initialization"] = "he_normal"
    for died, warnings in ((False, 0), (True, 1)):
        trainer = make_trainer(f"died_{died}", model=network, training={"save_every": 1})
        layer = dict(trainer.parts.optimization.network.named_modules())["unet.l_conv.0.conv_pass.0"]
        if died:
            layer.bias.data.fill_(-1e3)  # so that the following ReLU never opens
        caplog.clear()
        trainer.fit()
        found = [message for message in caplog.messages if "feature maps had no gradient" in message]
        assert len(found) == warnings
        if died:
            assert "unet.l_conv.0.conv_pass.0 (6 of 6)" in found[0]


def test_a_gpu_without_enough_memory_is_one_sentence(make_trainer: MakeTrainer) -> None:
    def full(*inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.22 GiB.")

    trainer = make_trainer()
    trainer.parts.optimization.network.register_forward_pre_hook(full)
    with pytest.raises(
        IncasemError, match=r"^The memory of the GPU does not suffice: lower training\.input_size_voxels"
    ):
        trainer.fit()


def test_same_seed_same_first_weights_whatever_the_global_generator(make_trainer: MakeTrainer) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = make_trainer("one")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    other = make_trainer("other")
    different = make_trainer("different", seed=6)
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    assert not all(torch.equal(value, weights(different)[name]) for name, value in weights(one).items())


def test_the_configuration_s_learning_rate_and_weight_decay_count_after_restoring(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    make_trainer("run").fit()
    again = make_trainer("run", training={"iterations": 8, "optimizer": {"lr": 0.5, "weight_decay": 0.25}})
    again.restore(tmp_path / "run/model_checkpoint_6")
    again.fit()
    group = again.parts.optimization.optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert again.iteration == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 6}, "set seed=5 to continue it"),
        ({"training": {"batch_size": 2}}, "set training.batch_size=1"),
        ({"training": {"iterations": 3}}, "raise it"),
        ({"model": {"num_fmaps_out": 3}, "data": {"num_classes": 3}, "loss": {"weight": [1, 1, 1]}}, "architecture"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    make_trainer("run").fit()
    with pytest.raises(CheckpointError, match=message):
        make_trainer("other", **changes).restore(tmp_path / "run/model_checkpoint_6")


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"channels_last": True}])
def test_other_arithmetic_and_layouts_train_too(make_trainer: MakeTrainer, changes: dict[str, Any]) -> None:
    trainer = make_trainer(torch=changes, training={"iterations": 30, "optimizer": {"lr": 0.05}})
    trainer.fit()
    losses = trainer.parts.run.values("loss_train_0")
    assert losses[30] < losses[1]
    assert all(value.dtype == torch.float32 for value in weights(trainer).values())
