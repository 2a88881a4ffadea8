"""Whose a run is: of those that would continue it one gets it, and who lost it stops writing."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tracking.continued_runs import interrupted, logging_up_to, stored, track
from tracking.faulty_servers import wait_until

from incasem_like.errors import InputError, RunNotFoundError, StoreError
from incasem_like.tracking import Continuation, Run, RunStore, open_store, run_experiment

Start = Callable[..., "subprocess.Popen[str]"]
CONFIG = {"tracking": {"max_points": 50, "store_checkpoints": "none"}}


def test_a_run_that_goes_on_is_not_continued_and_goes_on_unharmed(store: RunStore) -> None:
    def main(run: Run) -> None:
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        with pytest.raises(InputError, match=r"Run 1 in .* is still running \(process \d+ on .*\): stop it first"):
            track(store, logging_up_to(3), continues=Continuation(1, 0))
        run.log_scalar("loss", 0.25, 2)

    track(store, main)
    record = store.get(1)
    assert record.status == "COMPLETED"
    assert record.metrics["loss"].values == (0.5, 0.25)
    assert len(record.info["sessions"]) == 1


def test_a_run_that_is_not_there_is_not_continued(store: RunStore) -> None:
    with pytest.raises(RunNotFoundError, match=r"no training run 7: .* holds no runs yet"):
        track(store, logging_up_to(3), continues=Continuation(7, 0))
    assert store.ids() == []


def test_who_lost_the_run_stops_writing_and_says_so(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a machine that hung for so long that another one had reason to think it dead."""
    from incasem_like.tracking import metrics_log

    def main(run: Run) -> None:
        run.log_scalar("loss", 0.5, 1)
        run.flush()
        with monkeypatch.context() as patched:
            patched.setattr(metrics_log, "lock", lambda file, wait: True)
            patched.setattr("incasem_like.tracking.liveness.is_alive", lambda *arguments: False)
            track(store, logging_up_to(20, first=2), continues=Continuation(1, 1))
        run.log_scalar("loss", 99.0, 2)
        run.flush()
        raise AssertionError("was not told")

    with pytest.raises(StoreError, match=r"Run 1 in .* was continued by another process"):
        track(store, main)
    record = store.get(1)
    assert (record.status, len(record.info["sessions"])) == ("COMPLETED", 2)
    assert record.metrics["loss"].steps == tuple(range(1, 21))
    assert 99.0 not in record.metrics["loss"].values


def test_who_lost_the_run_and_logs_nothing_more_learns_it_at_the_end(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incasem_like.tracking import metrics_log

    def main(run: Run) -> str:
        with monkeypatch.context() as patched:
            patched.setattr(metrics_log, "lock", lambda file, wait: True)
            patched.setattr("incasem_like.tracking.liveness.is_alive", lambda *arguments: False)
            track(store, lambda run: "theirs", continues=Continuation(1, 1))
        run.set_info("seen", "mine")
        return "mine"

    with pytest.raises(StoreError, match="continued by another process"):
        track(store, main)
    assert (store.get(1).result, "seen" in store.get(1).info) == ("theirs", False)


def test_a_continuation_that_finds_nothing_to_go_on_from_leaves_the_run_as_it_was(store: RunStore) -> None:
    def nothing() -> int:
        raise InputError("There is no checkpoint: train it anew.")

    interrupted(store, 30)
    before, metrics = store.read_document(1), stored(store)
    with pytest.raises(InputError, match="no checkpoint"):
        track(store, lambda run: None, continues=Continuation(1, nothing))
    assert store.read_document(1) == before
    assert stored(store) == metrics
    track(store, logging_up_to(40, first=31), continues=Continuation(1, lambda: 30))
    assert store.get(1).metrics["loss"].steps == tuple(range(1, 41))


CONTINUE = """
    import sys
    from pathlib import Path
    from incasem_like.terminal import run_guarded
    from incasem_like.tracking import Continuation, open_store, run_experiment
    store = open_store(sys.argv[1], "trainings", Path("runs"))
    def main(run):
        run.log_scalar("who", float(sys.argv[2]), 1)
        print("has it", flush=True)
        sys.stdin.readline()
    print("ready", flush=True)
    sys.stdin.readline()
    config = {"tracking": {"store_checkpoints": "none"}}
    run_guarded(lambda: run_experiment(
        name="train", config=config, main=main, store=store, continues=Continuation(1, 0)))
"""


@pytest.mark.parametrize("kind", ["files", pytest.param("server", marks=pytest.mark.mongo)])
def test_of_processes_that_continue_one_run_at_once_one_gets_it(
    kind: str, tmp_path: Path, start_python: Start, request: pytest.FixtureRequest
) -> None:
    address = tmp_path / "runs" / "tracking" if kind == "files" else request.getfixturevalue("fresh_mongo_url")
    store: RunStore = open_store(address, "trainings", tmp_path / "runs")
    run_experiment(name="train", config=CONFIG, main=lambda run: None, store=store)
    processes = [start_python(CONTINUE, address, number) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    wait_until(lambda: sum(process.poll() is not None for process in processes) >= 3)
    outcomes = [process.communicate("\n", timeout=60) for process in processes]  # lets the one that has the run go on
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2, 2, 2], outcomes
    for code, (output, errors) in zip(codes, outcomes, strict=True):
        assert ("has it" in output) == (code == 0)
        assert code == 0 or "error: Run 1 in" in errors
        assert code == 0 or "is still running" in errors
    record = store.get(1)
    assert record.metrics["who"].values == (float(codes.index(0)),)
    assert (record.status, len(record.info["sessions"])) == ("COMPLETED", 2)
