"""Going on with a run, on every store: one record, one process at a time."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracking.continued_runs import interrupt, interrupted, logging_up_to, stored, track

from incasem_like.tracking import Continuation, Run, RunStore, delete_run, open_store
from incasem_like.tracking.metrics_log import read_log
from incasem_like.tracking.stores.files import FileStore


def test_a_continued_run_equals_one_that_was_never_interrupted(store: RunStore) -> None:
    points = {"tracking": {"max_points": 16}}
    interrupted(store, 57, config=points)
    track(store, logging_up_to(200, first=41), continues=Continuation(1, 40), config=points)
    record, (loss, dice) = store.get(1), (store.get(1).metrics[name] for name in ("loss", "dice"))
    whole = logged(store, 200)
    assert stored(store) == {name: whole[name] for name in ("loss", "dice")}
    if isinstance(store, FileStore):
        assert loss.steps == tuple(range(1, 201))
        assert dice.steps == tuple(range(10, 201, 10))
    assert record.info["summary"]["loss"] == {
        **{"last": 1 / 200, "last_step": 200, "min": 1 / 200, "min_step": 200, "max": 1.0, "max_step": 1}
    }
    assert (store.ids(), record.status) == ([1], "COMPLETED")


def logged(store: RunStore, last: int) -> dict[str, Any]:
    """What a store holds of an uninterrupted run of that length: by the definition, not by another run."""
    found = {}
    for name, steps in (("loss", list(range(1, last + 1))), ("dice", list(range(10, last + 1, 10)))):
        stride = 1
        while len(kept := sorted({*range(0, len(steps), stride), len(steps) - 1})) > 16:
            stride *= 2
        values = [1 / steps[index] if name == "loss" else steps[index] / 100 for index in kept]
        found[name] = ([steps[index] for index in kept], values, stride)
    return found


def test_the_full_log_is_only_appended_to(store: RunStore) -> None:
    interrupted(store, 57)
    log = store.metrics_log(1)
    assert log is not None
    before = log.read_bytes()
    track(store, logging_up_to(60, first=41), continues=Continuation(1, 40))
    assert log.read_bytes().startswith(before)
    assert store.metrics_log(1) == log
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["withdrawn_after"] for line in lines if "withdrawn_after" in line] == [40]


def test_a_continuation_that_was_killed_before_it_wrote_anything_costs_no_points(store: RunStore) -> None:
    points = {"tracking": {"max_points": 16}}
    interrupted(store, 57, config=points)
    log = store.metrics_log(1)
    assert log is not None
    with open(log, "a") as file:
        file.write('{"session": "killed at once"}\n')
    track(store, logging_up_to(200, first=41), continues=Continuation(1, 40), config=points)
    whole = logged(store, 200)
    assert stored(store) == {name: whole[name] for name in ("loss", "dice")}
    assert store.metrics_log(1) == log
    assert read_log(log)["loss"].steps == tuple(range(1, 201))


def test_a_metric_that_came_up_only_after_the_checkpoint_is_gone_until_it_comes_up_again(store: RunStore) -> None:
    interrupted(store, 57)
    track(store, lambda run: None, continues=Continuation(1, 5))
    assert list(store.get(1).metrics) == ["loss"]
    assert store.get(1).metrics["loss"].steps == (1, 2, 3, 4, 5)
    assert set(stored(store)) == {"loss"}


def test_a_run_may_be_continued_again_and_again_and_says_so(store: RunStore) -> None:
    interrupted(store, 30)
    for last in (50, 70):
        with pytest.raises(KeyboardInterrupt):
            track(store, logging_up_to(last, first=last - 29, then=interrupt), continues=Continuation(1, last - 30))
    track(store, logging_up_to(90, first=61), continues=Continuation(1, 60))
    record = store.get(1)
    sessions = record.info["sessions"]
    assert [session["from_iteration"] for session in sessions] == [0, 20, 40, 60]
    assert [session.get("before") for session in sessions] == [None, "INTERRUPTED", "INTERRUPTED", "INTERRUPTED"]
    assert all({"start", "hostname", "pid", "token", "commits"} <= set(session) for session in sessions)
    assert record.metrics["loss"].steps == tuple(range(1, 91))
    printed = [line for line in record.captured_output.splitlines() if line.startswith(("was at", "[continued"))]
    assert printed == [
        "was at 30",
        "[continued from iteration 20]",
        "was at 50",
        "[continued from iteration 40]",
        "was at 70",
        "[continued from iteration 60]",
        "was at 90",
    ]


def test_what_a_run_noted_stays_and_what_is_said_anew_replaces_it(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "checkpoint"
    path.write_bytes(b"x")

    def first(run: Run) -> None:
        run.set_info("parent", {"training_run_id": 4})
        run.set_info("seen", 1)
        run.add_artifact("text", "a.txt")
        run.register_checkpoint(path, 10)
        interrupt()

    def second(run: Run) -> dict[str, Any]:
        assert run.id == 1
        assert run.info["parent"] == {"training_run_id": 4}
        run.set_info("seen", 2)
        run.add_artifact("text 2", "b.txt")
        return {"iteration": 20}

    with pytest.raises(KeyboardInterrupt):
        track(store, first, run_name="long", comment="slow", config={"training": {"iterations": 10}})
    started = store.get(1).start_time
    track(store, second, config={"training": {"iterations": 20}}, continues=Continuation(1, 10))
    record = store.get(1)
    assert (record.parent, record.info["seen"]) == ({"training_run_id": 4}, 2)
    assert (record.name, record.comment) == ("long", "slow")
    assert record.config == {"training": {"iterations": 20}}
    assert record.result == {"iteration": 20}
    assert record.start_time == started
    assert record.stop_time is not None
    assert record.checkpoint("last").iteration == 10
    assert (record.artifact("a.txt"), record.artifact("b.txt")) == (b"text", b"text 2")


def test_a_failed_run_that_is_continued_is_not_failed_any_more(store: RunStore) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        track(store, logging_up_to(3, then=fail))
    assert "RuntimeError" in store.get(1).fail_trace

    def main(run: Run) -> None:
        run.flush()
        assert (store.get(1).status, store.get(1).stop_time, store.get(1).fail_trace) == ("RUNNING", None, "")

    track(store, main, continues=Continuation(1, 3))
    assert (store.get(1).status, store.get(1).fail_trace) == ("COMPLETED", "")
    assert store.get(1).info["sessions"][1]["before"] == "FAILED"


def test_values_that_are_not_numbers_and_steps_in_any_order_survive(store: RunStore) -> None:
    def main(run: Run) -> None:
        for step, value in ((5, 1.0), (3, math.inf), (8, math.nan), (3, -math.inf), (20, 2.0)):
            run.log_scalar("odd", value, step)

    track(store, main)
    assert store.get(1).metrics["odd"].steps == (5, 3, 8, 3, 20)
    track(store, lambda run: run.log_scalar("odd", 4.0, 9), continues=Continuation(1, 8))
    odd = store.get(1).metrics["odd"]
    assert odd.steps == (5, 3, 8, 3, 9)
    assert (odd.values[:2], odd.values[3:]) == ((1.0, math.inf), (-math.inf, 4.0))
    assert math.isnan(odd.values[2])
    summary = store.get(1).info["summary"]["odd"]
    assert (summary["min"], summary["max"], summary["last"], summary["last_step"]) == (-math.inf, math.inf, 4.0, 9)


def test_ids_are_never_given_twice_and_start_above_what_was_asked(store: RunStore) -> None:
    assert [track(store, lambda run: run.id) for _ in range(3)] == [1, 2, 3]
    delete_run(store, 3)
    assert track(store, lambda run: run.id) == 4
    assert track(store, lambda run: run.id, id_above=30) == 31
    assert track(store, lambda run: run.id, id_above=7) == 32


def test_the_id_of_a_deleted_run_of_another_program_is_not_given_again(
    store: RunStore, write_run: Callable[..., None]
) -> None:
    write_run(store, 9)
    delete_run(store, 9)
    assert track(store, lambda run: run.id) == 10


def test_a_run_of_another_program_can_be_continued(store: RunStore, write_run: Callable[..., None]) -> None:
    write_run(store, 4, config={"a": 1}, info={"noted": 1}, result="half")
    track(store, lambda run: run.log_scalar("loss", 0.5, 3), continues=Continuation(4, 2), config={"a": 1})
    record = store.get(4)
    assert (record.status, record.info["noted"], record.result) == ("COMPLETED", 1, None)
    assert record.metrics["loss"].values == (0.5,)
    assert [session["from_iteration"] for session in record.info["sessions"]] == [2]


def test_deleting_a_run_frees_its_log_too(store: RunStore, tmp_path: Path) -> None:
    track(store, logging_up_to(20))
    log = store.metrics_log(1)
    assert log is not None
    freed = delete_run(store, 1)
    assert not log.parent.exists()
    assert freed.bytes >= 20 * len('{"name": "loss", "step": 1}')


@pytest.mark.slow
def test_a_million_points_take_no_memory_that_grows_with_them(start_python: Callable[..., Any], tmp_path: Path) -> None:
    code = """
        import json, resource
        from pathlib import Path
        from incasem_like.tracking import open_store, run_experiment
        def main(run):
            peaks = {}
            for step in range(1_000_000):
                run.log_scalar("loss", step / 7, step)
                if step % 10_000 == 9_999:
                    run.flush()
                if step in (100_000, 999_999):
                    peaks[step] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            return peaks
        store = open_store(None, "trainings", Path("runs"))
        print(json.dumps(run_experiment(name="train", config={}, main=main, store=store)))
    """
    output, errors = start_python(code).communicate(timeout=300)
    assert errors == ""
    first, last = json.loads(output).values()
    assert last - first < 40  # MiB; the points themselves would take some 150
    store = open_store(None, "trainings", tmp_path / "runs")
    assert (
        len(json.loads((tmp_path / "runs/tracking/incasem_trainings/1/metrics.json").read_text())["loss"]["steps"])
        <= 2000
    )
    assert len(store.get(1).metrics["loss"].steps) == 1_000_000


def test_a_checkpoint_notes_how_long_each_metric_was(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / "checkpoint"
    path.write_bytes(b"x")

    def main(run: Run) -> None:
        logging_up_to(25)(run)
        run.register_checkpoint(path, 25)

    track(store, main)
    (entry,) = store.get(1).info["checkpoints"]
    assert entry["counts"] == {"loss": 25, "dice": 2}
