from typing import Any

import numpy as np
import pytest
from funlib.geometry import Roi

from incasem_like.config.target_sections import parse_targets
from incasem_like.training.snapshots import (
    LONGEST_SIDE,
    OrthoPlanes,
    central_crop,
    central_planes,
    class_colours,
    ortho_figure,
)


def learnt(name: str) -> Any:
    return parse_targets([name])[0].resolved(3)


def blocks(roi: Roi, size: int) -> list[Roi]:
    """Blocks that cover the region and stick out of it."""
    starts = [range(begin - 1, end, size) for begin, end in zip(roi.begin, roi.end, strict=True)]
    return [Roi((z, y, x), (size, size, size)) for z in starts[0] for y in starts[1] for x in starts[2]]


@pytest.mark.parametrize("channels", [None, 3])
def test_planes_gathered_from_blocks_are_those_of_the_whole(channels: int | None) -> None:
    roi = Roi((-3, 5, 10), (7, 8, 9))
    space = np.random.default_rng(0).random((*(() if channels is None else (channels,)), 40, 40, 40)).astype(np.float32)

    def read(part: Roi) -> Any:
        return space[(..., *(slice(b + 10, e + 10) for b, e in zip(part.begin, part.end, strict=True)))]

    gathered = OrthoPlanes(roi, channels)
    for block in blocks(roi, 4):
        gathered.add(block, read(block))
    for found, expected in zip(gathered.planes, central_planes(read(roi)), strict=True):
        np.testing.assert_array_equal(found, expected)


def panels(image: np.ndarray[Any, Any], width: int, height: int, row: int, column: int) -> np.ndarray[Any, Any]:
    return image[row * (height + 4) : row * (height + 4) + height, column * (width + 4) : column * (width + 4) + width]


def test_figure_shows_raw_labels_and_prediction_side_by_side() -> None:
    raw = np.full((6, 6, 6), 0.5, dtype=np.float32)
    labels = np.zeros((6, 6, 6), dtype=np.uint8)
    labels[:, :3] = 1
    probabilities = np.stack([1.0 - labels, labels, 0 * labels]).astype(np.float32)
    pairs = [(learnt("classes"), central_planes(labels), central_planes(probabilities))]
    image = ortho_figure(central_planes(raw), pairs, (5, 5, 5))
    assert image.dtype == np.uint8
    assert image.shape == (3 * 6 + 2 * 4, 3 * 6 + 2 * 4, 3)
    grey, over_labels, over_prediction = (panels(image, 6, 6, 0, column) for column in range(3))
    assert np.all(grey == 127)
    assert np.all(over_labels[3:] == 127)
    np.testing.assert_allclose(over_labels[0, 0], 0.5 * 127.5 + 0.5 * class_colours(1)[0], atol=1)
    np.testing.assert_array_equal(over_prediction, over_labels)


def test_other_channels_are_red_green_and_blue() -> None:
    raw = np.zeros((6, 6, 6), dtype=np.float32)
    values = np.zeros((3, 6, 6, 6), dtype=np.float32)
    values[1] = 0.5
    pairs = [
        (learnt("affinities"), central_planes(values > 0), central_planes(values)),
        (learnt("boundaries"), central_planes(values[1:2] > 0), central_planes(values[1:2])),
    ]
    image = ortho_figure(central_planes(raw), pairs, (5, 5, 5))
    shown = [tuple(panels(image, 6, 6, 0, column)[0, 0]) for column in range(5)]
    assert shown == [(0, 0, 0), (0, 255, 0), (0, 127, 0), (255, 255, 255), (127, 127, 127)]


def test_thick_sections_are_stretched() -> None:
    planes = central_planes(np.zeros((4, 10, 12)))
    probabilities = central_planes(np.zeros((2, 4, 10, 12)))
    image = ortho_figure(planes, [(learnt("classes"), planes, probabilities)], (50, 10, 10))
    assert image.shape[0] == 10 + 4 + 4 * 5 + 4 + 4 * 5


def test_large_figures_are_thinned() -> None:
    planes = central_planes(np.zeros((3, 1500, 20)))
    pairs = [(learnt("classes"), planes, central_planes(np.zeros((2, 3, 1500, 20))))]
    image = ortho_figure(planes, pairs, (1, 1, 1))
    assert max(image.shape) <= LONGEST_SIDE


def test_central_crop_is_centred() -> None:
    np.testing.assert_array_equal(central_crop(np.arange(10), (4,)), [3, 4, 5, 6])
