import time

import numpy as np
import pytest
import torch

from incasem_like.prediction.computing.pipeline import Downloads, batches, delayed, prefetched, to_device
from incasem_like.prediction.computing.tiling import Tile
from incasem_like.volumes import Roi

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA can use")


def tile(at, read=8, written=4, margin=2):
    return Tile(Roi((0, 0, at), (read,) * 3), Roi((margin, margin, at + margin), (written,) * 3))


def test_batches_hold_neighbours_that_lie_alike():
    alike = [tile(at) for at in (0, 4, 8, 12, 16)]
    smaller, shifted = tile(20, read=6), tile(24, margin=1)
    assert list(batches([*alike, smaller, shifted], 2)) == [
        (alike[0], alike[1]),
        (alike[2], alike[3]),
        (alike[4],),
        (smaller,),
        (shifted,),
    ]
    assert list(batches(alike, 1)) == [(one,) for one in alike]


def test_what_is_delayed_comes_in_order_when_the_next_has_been_drawn():
    drawn = []

    def items():
        for number in range(4):
            drawn.append(number)
            yield number

    assert [(item, len(drawn)) for item in delayed(items(), 1)] == [(0, 2), (1, 3), (2, 4), (3, 4)]
    drawn.clear()
    assert [(item, len(drawn)) for item in delayed(items(), 0)] == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_values_reach_the_device_and_come_back(device):
    device = torch.device(device)
    downloads = Downloads(device)
    raw = [np.random.default_rng(seed).random((2, 30, 40, 50), dtype=np.float32) for seed in range(4)]
    started = [downloads.start(to_device(values, device) * 2) for values in raw]
    for values, fetched in zip(raw, started, strict=True):
        assert np.array_equal(fetched()[0], values * 2)
    assert to_device(raw[0][0], device).shape == (1, 1, 30, 40, 50)
    assert downloads.behind == (device.type == "cuda")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_order(count):
    assert list(prefetched(lambda n: n * n, range(7), count)) == [0, 1, 4, 9, 16, 25, 36]


def test_no_more_than_count_are_computed_beforehand():
    begun = []
    results = prefetched(begun.append, range(10), 2)
    next(results)
    deadline = time.monotonic() + 20
    while len(begun) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # in which a fourth could be begun
    assert sorted(begun) == [0, 1, 2]


def test_nothing_to_do_is_done_at_once():
    assert list(prefetched(str, [], 2)) == []


def test_an_error_comes_out_where_its_result_would():
    results = prefetched(lambda n: 1 / n, [2, 0], 1)
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)
