import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from incasem_like.targets import targets_of
from incasem_like.training.log import Step, TrainingLog, class_shares, mean_scores
from incasem_like.training.tensorboard import TensorBoardLog


def step(iteration: int) -> Step:
    labels = torch.zeros((1, 2, 2, 2), dtype=torch.int64)
    labels[0, 0] = 1
    mask = torch.ones_like(labels)
    mask[0, 0, 0, 0] = 0
    logits = torch.stack([labels == 0, labels == 1], dim=1).float() * 8
    logits[0, :, 0, 0, 0] = torch.tensor([9.0, -9.0])  # wrong, but masked
    targets = {"classes": {"target": labels, "weight": mask.float()}}
    return Step(iteration, 0.5, 1e-3, {"labels": labels, "targets": targets}, logits, 2.0)


def test_run_store_gets_incasem_s_names_at_its_interval(
    make_config: Callable[..., Any], fake_run: Any, tmp_path: Path
) -> None:
    with TensorBoardLog(tmp_path) as tensorboard:
        log = TrainingLog(make_config(sacred={"log_every": 2}), fake_run, tensorboard)
        for iteration in (1, 2, 3, 4):
            log.training(step(iteration))
    assert fake_run.values("loss_train_0") == {2: 0.5, 4: 0.5}
    assert fake_run.values("pct_class_1") == {2: 0.5, 4: 0.5}
    assert fake_run.values("dice_class_1_train") == {2: 1.0, 4: 1.0}
    assert {name for name, _, _ in fake_run.scalars} == {
        "loss_train_0", "pct_class_0", "pct_class_1", "dice_class_0_train", "dice_class_1_train",
    }  # fmt: skip


def test_class_shares_add_up_to_one() -> None:
    labels = torch.tensor([[0, 0, 1, 2]])
    expected = {"pct_class_0": 0.5, "pct_class_1": 0.25, "pct_class_2": 0.25, "pct_class_3": 0.0}
    assert class_shares({"labels": labels}, (), 4) == expected


def test_a_voxel_of_overlapping_classes_counts_in_each_of_them(make_config: Callable[..., Any]) -> None:
    config = make_config(targets=[{"type": "classes", "exclusive": False}], data={"num_classes": 3})
    channels = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]], dtype=torch.uint8)[None, :, None, None]
    labels = torch.tensor([1, 0, 0, 2])[None, None, None]  # the overlap is background in the class map
    batch = {"labels": labels, "targets": {"classes": {"target": channels}}}
    shares = class_shares(batch, targets_of(config), 3)
    assert shares == {"pct_class_0": 0.25, "pct_class_1": 0.5, "pct_class_2": 0.5}


def test_means_leave_undefined_scores_out() -> None:
    means = mean_scores([{"a": 1.0, "b": math.nan}, {"a": 0.5, "b": math.nan}, {"a": math.nan, "b": math.nan}])
    assert means["a"] == pytest.approx(0.75)
    assert math.isnan(means["b"])


def test_of_several_targets_each_has_its_loss_and_main_score(
    make_config: Callable[..., Any], fake_run: Any, tmp_path: Path
) -> None:
    config = make_config(targets=["classes", {"type": "affinities", "offsets": [[0, 0, -1]]}])
    known = step(1)
    affinities = known.batch["labels"][:, None]
    targets = {**known.batch["targets"], "affinities": {"target": affinities, "weight": torch.ones(affinities.shape)}}
    logits = torch.cat([known.logits, affinities * 2.0 - 1], dim=1)
    losses = {"loss_classes": 0.2, "loss_affinities": 0.3}
    with TensorBoardLog(tmp_path) as tensorboard:
        batch = {**known.batch, "targets": targets}
        TrainingLog(config, fake_run, tensorboard).training(Step(1, 0.5, 1e-3, batch, logits, 2.0, losses))
    found = {name: value for name, _, value in fake_run.scalars}
    assert (found["loss_classes_train"], found["loss_affinities_train"]) == (0.2, 0.3)
    assert (found["dice_class_1_train"], found["affinities_dice_train"]) == (1.0, 1.0)
