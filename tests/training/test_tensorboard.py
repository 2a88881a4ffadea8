import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from incasem_like.training.tensorboard import TensorBoardLog


@pytest.fixture(autouse=True)
def _files_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let file names sort by age: of one process and second they end in a number, and 10 would come before 9."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def read(folder: Path) -> Any:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_and_images_are_found_under_their_tags(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        log.scalars("training", {"loss_0": 0.5, "dice": math.nan}, 3)
        log.scalars("validation/cell 1", {"loss_0": 0.25}, 3)
        log.image("training", "ortho_slices", np.zeros((5, 6, 3), dtype=np.uint8), 3)
    training = read(tmp_path / "training")
    assert training.Tags()["scalars"] == ["loss_0"]
    assert [(event.step, event.value) for event in training.Scalars("loss_0")] == [(3, 0.5)]
    assert (training.Images("ortho_slices")[0].width, training.Images("ortho_slices")[0].height) == (6, 5)
    assert read(tmp_path / "validation" / "cell 1").Scalars("loss_0")[0].value == 0.25


def test_what_a_resumed_run_writes_anew_replaces_the_old(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        for step in range(1, 6):
            log.scalars("training", {"loss_0": float(step)}, step)
    with TensorBoardLog(tmp_path, first_step=4) as log:
        log.scalars("training", {"loss_0": 40.0}, 4)
    found = [(event.step, event.value) for event in read(tmp_path / "training").Scalars("loss_0")]
    assert found == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_part_that_a_resumed_run_does_not_write_to_loses_its_later_steps_too(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path) as log:
        for step in (1, 2):
            log.scalars("validation/cell 1", {"loss_0": 1.0}, step)
    with TensorBoardLog(tmp_path, first_step=2):
        pass
    assert [event.step for event in read(tmp_path / "validation/cell 1").Scalars("loss_0")] == [1]
    with TensorBoardLog(tmp_path, first_step=1) as log:
        log.scalars("training", {"loss_0": 1.0}, 1)
    assert read(tmp_path / "validation/cell 1").Scalars("loss_0") == []


def test_nothing_is_created_before_something_is_written(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path / "log") as log:
        log.flush()
    assert not (tmp_path / "log").exists()
