"""Which block is next, which comes again, and which has failed."""

from incasem_like.blockwise.call import DEATHS, BlockError, BlockQueue
from incasem_like.errors import ConfigError, DataError, IncasemError

ERROR = BlockError(IncasemError("out of sorts"))
DEATH = BlockError(IncasemError("died"), deaths=1)


def test_each_block_is_handed_out_once() -> None:
    queue = BlockQueue(range(5), retries=2)
    assert [queue.take(2), queue.take(2), queue.take(2), queue.take(2)] == [[0, 1], [2, 3], [4], []]
    assert len(queue) == 5


def test_an_error_puts_a_block_at_the_end_until_it_may_not_be_tried_again() -> None:
    queue = BlockQueue(range(3), retries=2)
    assert queue.take(3) == [0, 1, 2]
    for _ in range(2):
        assert queue.error(1, ERROR) is None
        assert queue.take(3) == [1]
    failed = queue.error(1, ERROR)
    assert failed is not None
    assert (failed.number, failed.attempts, str(failed.last.error)) == (1, 3, "out of sorts")
    assert queue.take(3) == []
    assert len(queue) == 2
    assert list(queue.failed) == [1]


def test_a_wrong_configuration_is_not_tried_again_but_data_that_cannot_be_read_are() -> None:
    queue = BlockQueue([6, 7], retries=2)
    queue.take(2)
    assert queue.error(6, BlockError(DataError("The server does not answer."))) is None
    failed = queue.error(7, BlockError(ConfigError("The tile is too small.")))
    assert failed is not None
    assert failed.attempts == 1


def test_deaths_of_workers_are_borne_more_often_than_errors() -> None:
    queue = BlockQueue([7], retries=0)
    for _ in range(DEATHS - 1):
        assert queue.take(1) == [7]
        assert queue.error(7, DEATH) is None
    assert queue.take(1) == [7]
    assert queue.error(7, DEATH) is not None


def test_what_was_not_begun_comes_back_first() -> None:
    queue = BlockQueue(range(6), retries=2)
    assert queue.take(4) == [0, 1, 2, 3]
    queue.put_back([2, 3])
    assert queue.take(3) == [2, 3, 4]


def test_a_worker_that_was_given_up_may_still_finish_its_block() -> None:
    queue = BlockQueue(range(2), retries=2)
    queue.take(1)
    queue.put_back([0])
    assert queue.done(0)
    assert queue.take(2) == [1]
    assert not queue.done(0)
    for _ in range(DEATHS):
        queue.error(1, DEATH)
        queue.take(1)
    assert list(queue.failed) == [1]
    assert queue.done(1)
    assert not queue.failed
    assert not queue
