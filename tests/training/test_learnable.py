import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from incasem_like.training import foreground
from incasem_like.training.foreground import warn_of_missing_classes
from incasem_like.volumes import Coordinate, Roi


def region(name: str, labels: Any) -> Any:
    """A region whose place begins at 100, 0, 0, and which counts what is read of it."""
    found = SimpleNamespace(name=name, roi=Roi(Coordinate(100, 0, 0), Coordinate(labels.shape)), read=[])

    def read(roi: Roi) -> Any:
        found.read.append(tuple(roi.shape))
        first = roi.begin[0] - 100
        return labels[first : first + roi.shape[0]]

    found.read_labels = read
    return found


@pytest.fixture
def blank() -> Any:
    return np.zeros((6, 4, 4), dtype=np.uint8)


def said(caplog: pytest.LogCaptureFixture, regions: list[Any], classes: int) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        warn_of_missing_classes("training.data", regions, classes)
    return [record.getMessage() for record in caplog.records]


def test_labels_without_foreground_give_one_warning(blank: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, [region("left", blank), region("right", blank)], 2) == [
        "No voxel of training.data belongs to class 1 (looked at: left, right), so it can be neither learnt nor "
        'measured: check "labels", offset and shape.'
    ]


def test_a_class_anywhere_is_enough_and_those_missing_are_named(blank: Any, caplog: pytest.LogCaptureFixture) -> None:
    one, two = blank.copy(), blank.copy()
    one[5, 3, 3], two[0, 0, 0] = 1, 3
    assert said(caplog, [region("left", one), region("right", two)], 2) == []
    assert "belongs to classes 2, 4 (" in said(caplog, [region("left", one), region("right", two)], 5)[0]


def test_no_more_is_read_than_it_takes(
    blank: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreground, "VOXELS_AT_ONCE", 40)  # slabs of two sections of 16 voxels
    blank[3] = 1
    left, right = region("left", blank), region("right", blank)
    assert said(caplog, [left, right], 2) == []
    assert (left.read, right.read) == ([(2, 4, 4), (2, 4, 4)], [])
    monkeypatch.setattr(foreground, "MOST_VOXELS", 60)
    empty = region("empty", np.zeros((6, 4, 4), dtype=np.uint8))
    assert said(caplog, [empty], 2) == []  # nothing is claimed of what was not looked at
    assert empty.read == [(2, 4, 4), (2, 4, 4)]
