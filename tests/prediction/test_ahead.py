import threading
import time

import pytest

from incasem_like.prediction.computing.ahead import Behind, ahead


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_order(count):
    assert list(ahead(lambda n: n * n, range(7), count)) == [0, 1, 4, 9, 16, 25, 36]


def test_no_more_than_count_are_made_ahead():
    begun = []
    results = ahead(begun.append, range(10), 2)
    next(results)
    deadline = time.monotonic() + 20
    while len(begun) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # in which a fourth could be begun
    assert sorted(begun) == [0, 1, 2]


def test_nothing_to_do_is_done_at_once():
    assert list(ahead(str, [], 2)) == []


def test_an_error_comes_out_where_its_result_would():
    results = ahead(lambda n: 1 / n, [2, 0], 1)
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_actions_are_done_one_after_another_beside_the_caller():
    done = []
    with Behind(threaded=True) as behind:
        for number in range(5):
            behind.do(lambda number=number: done.append((number, threading.current_thread().name)))
    assert [number for number, _ in done] == list(range(5))
    assert all(name.startswith("behind") for _, name in done)


@pytest.mark.parametrize("threaded", [True, False])
def test_the_last_actions_error_is_not_lost(threaded):
    def fail():
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"), Behind(threaded) as behind:
        behind.do(fail)
