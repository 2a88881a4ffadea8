"""A run's line on TensorBoard's HParams page, read as TensorBoard reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, metadata

from incasem_like.config import TrainingConfig
from incasem_like.training.log import TrainingLog
from incasem_like.training.state import BestMemory
from incasem_like.training.tensorboard import HPARAMS, TensorBoardLog, hyperparameters

Make = Callable[..., TrainingConfig]


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder / HPARAMS))
    events.Reload()
    return events


def settings(folder: Path) -> dict[str, Any]:
    content = read(folder).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    info = metadata.parse_session_start_info_plugin_data(content)
    return {"trial": info.group_name, **{key: getattr(v, v.WhichOneof("kind")) for key, v in info.hparams.items()}}


def status(folder: Path) -> int:
    content = read(folder).SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    return int(metadata.parse_session_end_info_plugin_data(content).status)


def test_settings_are_flat_numbers_truth_values_and_short_texts(make_config: Make) -> None:
    found = hyperparameters(
        make_config(
            training={"optimizer": {"lr": 0.5}, "augmentation": {"elastic": None}, "data": "/data/mito/train.json"},
            data={"voxel_size": [4.6, 4.6, 4.6]},
        )
    )
    assert found["training.optimizer.lr"] == 0.5
    assert found["training.batch_size"] == 1.0
    assert found["training.input_size_voxels"] == "8 x 8 x 8"
    assert found["data.voxel_size"] == "4.6 x 4.6 x 4.6"
    assert found["training.augmentation.elastic"] == "none"
    assert found["training.data"] == "train.json"
    assert found["torch.precision"] == "fp32"
    assert all(isinstance(value, float | str | bool) for value in found.values())


def test_what_a_continued_run_may_change_is_no_setting(make_config: Make) -> None:
    one = hyperparameters(make_config())
    other = hyperparameters(
        make_config(seed=8, training={"iterations": 99, "save_every": 7}, torch={"device": "cpu", "num_threads": 2})
    )
    assert one == other


def test_the_line_holds_settings_and_the_newest_result(make_config: Make, tmp_path: Path) -> None:
    config = make_config()
    with TensorBoardLog(tmp_path) as tensorboard:
        tensorboard.trial("0001 mito", hyperparameters(config))
        log = TrainingLog(config, None, tensorboard)  # type: ignore[arg-type]
        best = BestMemory("dice_class_1", value=0.75, iteration=2)
        log.result({"loss_train_0": 0.5, "loss": 0.25, "dice_class_0": 1.0, "dice_class_1": 0.75}, best, 2)
        log.result({"loss_train_0": 0.125}, best, 3)
    assert settings(tmp_path)["trial"] == "0001 mito"
    assert settings(tmp_path)["training.optimizer.lr"] == pytest.approx(0.01)
    events = read(tmp_path)
    last = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    assert last == {
        "result/loss_train_0": 0.125, "result/loss": 0.25, "result/dice_class_1": 0.75,
        "result/best_dice_class_1": 0.75, "result/iteration": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, api_pb2.STATUS_SUCCESS),
        (ValueError(), api_pb2.STATUS_FAILURE),
        (KeyboardInterrupt(), api_pb2.STATUS_UNKNOWN),
    ],
)
def test_the_line_says_how_the_run_ended(error: BaseException | None, expected: int, tmp_path: Path) -> None:
    def work() -> None:
        with TensorBoardLog(tmp_path) as tensorboard:
            tensorboard.trial("0001", {"lr": 0.1})
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert status(tmp_path) == expected


def test_a_run_that_is_continued_has_one_line_that_says_how_it_ended_at_last(tmp_path: Path) -> None:
    interrupted = TensorBoardLog(tmp_path)
    interrupted.trial("0001", {"lr": 0.1})
    interrupted.scalars(HPARAMS, {"result/iteration": 5.0}, 5)
    interrupted.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with TensorBoardLog(tmp_path, first_step=4) as tensorboard:
        tensorboard.trial("0001", {"lr": 0.1})
        tensorboard.scalars(HPARAMS, {"result/iteration": 3.0}, 3)
        tensorboard.scalars(HPARAMS, {"result/iteration": 9.0}, 9)
    assert status(tmp_path) == api_pb2.STATUS_SUCCESS
    assert [event.value for event in read(tmp_path).Scalars("result/iteration")] == [3.0, 9.0]
    assert len(list((tmp_path / HPARAMS).iterdir())) == 1


def test_training_makes_a_line_of_its_own_accord(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    trainer = make_trainer("run", dice={2: 0.5, 4: 0.75, 6: 0.25})
    trainer.fit()
    trainer.parts.log.flush()
    events = read(tmp_path / "run_tensorboard")
    assert [(event.step, event.value) for event in events.Scalars("result/best_dice_class_1")][-1] == (6, 0.75)
    assert events.Scalars("result/dice_class_1")[-1].value == 0.25
