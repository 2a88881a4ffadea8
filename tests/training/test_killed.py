"""kill -9, twenty times in one training, at random moments and in the middle of all it writes: it leaves no trace.

Most of the trainings are forks of a process that has imported everything, since twenty starts of Python with torch
would take minutes. A kill at an event happens there inside the operation on the file itself, so that it is certain that
each of the moments at which a checkpoint is half there is met (``helpers/preloaded_trainer.py``).
"""

import random
import signal
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from incasem_like.tracking import RunRecord

LONG = ("training.iterations=90", "training.save_every=2", "validation.validate_every=10")
SEED = 20
AT_ANY_MOMENT = 8  # at a random function call
BY_THE_SCRIPT = 2  # of the real script, from outside, after a random time
EVENTS = (
    "model half written", "model half written", "model there, state not", "state half written",
    "both there, not on record", "record half written", "record just written", "entry half written",
    "half a line in the log", "superfluous, off the record, not deleted",
)  # fmt: skip


def moments() -> list[dict[str, Any]]:
    """Twenty of them, in random order; those at events happen at the first or second time."""
    chance = random.Random(SEED)
    chosen: list[dict[str, Any]] = [{"event": event, "count": chance.randint(1, 2)} for event in EVENTS]
    chosen += [{"calls": chance.randint(1, 120_000)} for _ in range(AT_ANY_MOMENT)]
    chosen += [{"seconds": chance.uniform(0, 1.5)} for _ in range(BY_THE_SCRIPT)]
    chance.shuffle(chosen)
    return chosen


def numbers(record: RunRecord) -> dict[str, list[tuple[int, float]]]:
    return {name: list(zip(metric.steps, metric.values, strict=True)) for name, metric in record.metrics.items()}


def curve(laboratory: Any, run_id: int, part: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(laboratory.runs / "tensorboard" / f"{run_id:04d}" / part), {"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss_0")]


@pytest.mark.slow
def test_a_training_killed_at_twenty_moments_equals_one_that_was_left_alone(laboratory: Any) -> None:
    assert len(moments()) == 20
    kill_and_continue(laboratory, moments(), LONG)
    assert_equal(laboratory)
    killed = laboratory.store.get(2)
    assert list(killed.metrics["loss_train_0"].steps) == list(range(1, 91))
    for part in ("training", "validation/right"):
        assert curve(laboratory, 2, part) == curve(laboratory, 1, part)


@pytest.mark.slow
@pytest.mark.mongo
def test_so_does_one_whose_record_is_in_a_database(mongo_laboratory: Any) -> None:
    in_files = ("record", "entry")  # which there are none of here
    chosen = [moment for moment in moments() if not str(moment.get("event")).startswith(in_files)]
    kill_and_continue(mongo_laboratory, chosen[:8], ("training.iterations=50", *LONG[1:]))
    assert_equal(mongo_laboratory)


def kill_and_continue(laboratory: Any, moments: list[dict[str, Any]], updates: tuple[str, ...]) -> None:
    """Train run 1 undisturbed, and run 2 with a kill at each of the moments."""
    assert laboratory.train(laboratory.new(*updates)) == 0, laboratory.output.read_text()
    for number, moment in enumerate(moments):
        argv = laboratory.going_on(2) if number else laboratory.new(*updates)
        if "seconds" in moment:
            assert laboratory.kill_the_script(argv, moment["seconds"]) == -signal.SIGKILL
        else:
            status = laboratory.train(argv, moment)
            assert status == -signal.SIGKILL, f"not killed at {moment}: {laboratory.output.read_text()[-3000:]}"
        assert laboratory.store.get(2).status == "KILLED"
    assert laboratory.train(laboratory.going_on(2)) == 0, laboratory.output.read_text()


def assert_equal(laboratory: Any) -> None:
    """Hold run 2 against run 1: record, metrics, checkpoints byte for byte, and nothing left over."""
    whole, killed = laboratory.store.get(1), laboratory.store.get(2)
    assert laboratory.store.ids() == [1, 2]
    assert (killed.status, killed.result) == (whole.status, whole.result)
    assert numbers(killed) == numbers(whole)
    assert [(c.iteration, c.sha256, c.metrics) for c in killed.checkpoints] == [
        (c.iteration, c.sha256, c.metrics) for c in whole.checkpoints
    ]
    folders = [laboratory.runs / "models" / name for name in ("0001", "0002")]
    names = sorted(path.name for path in folders[0].iterdir())
    assert sorted(path.name for path in folders[1].iterdir()) == names
    for name in names:
        if name.startswith("model"):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert all(session["before"] == "KILLED" for session in killed.info["sessions"][1:])
