"""Lists of runs in brief: what they say, of runs of all origins, and that they are kept up to date."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from incasem_like.tracking import Run, RunStore, RunSummary, open_store, run_experiment
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore

WriteRun = Callable[..., None]
pytestmark = pytest.mark.usefixtures("small_package")


def test_a_summary_says_of_a_run_what_its_record_says(store: RunStore, tmp_path: Path) -> None:
    checkpoint = tmp_path / "runs" / "models" / "0001" / "model_checkpoint_5"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")

    def work(run: Run) -> dict[str, float]:
        for step, value in ((1, 0.5), (2, 0.9), (3, 0.7)):
            run.log_scalar("dice", value, step)
        run.set_info("parent", {"training_run_id": 7, "sha256": "ab"})
        run.inputs([{"address": "cell.zarr/raw", "content_hash": "cd"}])
        run.register_checkpoint(checkpoint, 5, {"dice": 0.7})
        return {"dice": 0.7}

    config = {"training": {"iterations": 3, "data": "a.b.json"}, "seed": 1}
    run_experiment(name="train", config=config, main=work, store=store, run_name="mito", comment="first try")
    record = store.get(1)
    (summary,) = store.summaries(("training", "seed", "absent"), inputs=True)
    assert (summary.kind, summary.id, summary.name, summary.comment) == ("trainings", 1, "mito", "first try")
    assert (summary.command, summary.status, summary.result) == ("train", "COMPLETED", {"dice": 0.7})
    assert (summary.start_time, summary.stop_time) == (record.start_time, record.stop_time)
    assert summary.heartbeat == record.heartbeat
    assert summary.hostname == record.host["hostname"]
    assert summary.parents == (("trainings", 7),)
    assert summary.parent == {"training_run_id": 7, "sha256": "ab"}
    assert summary.inputs == ({"address": "cell.zarr/raw", "content_hash": "cd"},)
    (registered,) = summary.checkpoints
    assert (registered.iteration, registered.bytes) == (5, 7)
    assert registered.sha256 == record.checkpoints[0].sha256
    assert summary.config == {"training.iterations": 3, "training.data": "a.b.json", "seed": 1}
    assert dict(summary.summary["dice"]) == {
        "last": 0.7, "last_step": 3, "min": 0.5, "min_step": 1, "max": 0.9, "max_step": 2,
    }  # fmt: skip


def test_what_is_not_asked_for_is_not_there_and_a_star_asks_for_the_whole_configuration(store: RunStore) -> None:
    config = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e.f": None, "g": {}}
    run_experiment(name="x", config=config, main=lambda run: run.inputs([{"address": "x"}]), store=store)
    (summary,) = store.summaries()
    assert (summary.config, summary.inputs) == ({}, ())
    (summary,) = store.summaries(("*",))
    assert summary.config == {"a.b": 1, "a.c.d": [1, 2], "e.f": None, "g": {}}
    (summary,) = store.summaries(("a", "a.b"))
    assert summary.config == {"a.b": 1, "a.c.d": [1, 2]}


def test_runs_come_by_number_and_no_runs_are_no_error(store: RunStore) -> None:
    assert store.summaries() == []
    for run_id in (10, 9, 2):
        run_experiment(name="x", config={}, main=lambda run: None, store=store, run_id=run_id)
    assert [summary.id for summary in store.summaries()] == [2, 9, 10]


def test_states_are_honest(store: RunStore, write_run: WriteRun) -> None:
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    here = {"hostname": "elsewhere", "pid": 1}
    write_run(store, 1, status="RUNNING", host=here, heartbeat=datetime(2020, 1, 1))
    write_run(store, 2, status="RUNNING", host=here, heartbeat=now)
    write_run(store, 3, status="FAILED")
    found = store.summaries()
    assert [(run.status, run.recorded_status) for run in found] == [
        ("KILLED", "RUNNING"),
        ("RUNNING", "RUNNING"),
        ("FAILED", "FAILED"),
    ]
    assert [run.status for run in found] == [store.get(run.id).status for run in found]


def test_a_run_that_changes_is_seen_to_change(store: RunStore) -> None:
    seen: list[RunSummary] = []

    def work(run: Run) -> None:
        for step in (1, 2):
            run.log_scalar("loss", 1 / step, step)
            run.flush()
            seen.extend(store.summaries())

    run_experiment(name="x", config={}, main=work, store=store)
    assert [run.status for run in (*seen, *store.summaries())] == ["RUNNING", "RUNNING", "COMPLETED"]
    assert store.summaries()[0].summary["loss"]["last"] == 0.5


def test_documents_of_other_hands_and_odd_types_are_summarized_as_far_as_they_go(
    store: RunStore, write_run: WriteRun
) -> None:
    write_run(store, 1, result={"py/object": "numpy.float32", "dtype": "float32", "value": 0.5}, host=None, meta=None)
    write_run(store, 2, info={"checkpoints": "none", "inputs": 3, "summary": [1], "parent": 7}, experiment=5)
    write_run(store, 3, start_time=12, heartbeat="yesterday", host={"hostname": {"py/object": "x"}, "pid": "7"})
    write_run(store, 4, status="RUNNING", host={"hostname": "h", "pid": "no number"}, info=None, config=None)
    write_run(store, 5, config={"lr": {"py/object": "numpy.float64", "value": 0.1}, "shape": {"py/tuple": [1, 2]}})
    write_run(store, 6, info={"checkpoints": [{"path": "x"}, {"iteration": 3}, {}]})
    found = {run.id: run for run in store.summaries(("*",), inputs=True)}
    assert [run.status for run in found.values()] == ["COMPLETED"] * 3 + ["KILLED"] + ["COMPLETED"] * 2
    assert found[1].result == 0.5
    assert (found[2].checkpoints, found[2].inputs, found[2].parents, found[2].name) == ((), (), (), "")
    assert (found[3].start_time, found[3].heartbeat, found[3].hostname) == (None, None, "")
    assert found[5].config == {"lr": 0.1, "shape": [1, 2]}
    assert [entry.iteration for entry in found[6].checkpoints] == [3]


def test_every_training_of_an_ensemble_is_a_parent(store: RunStore, write_run: WriteRun) -> None:
    predictions = store.sibling("predictions")
    members = [{"training_run_id": number, "sha256": "ab"} for number in (9, 7, 9)]
    write_run(predictions, 1, info={"parent": {"members": members}})
    assert predictions.summaries()[0].parents == (("trainings", 9), ("trainings", 7))
    assert [child.id for child in store.sibling("trainings").children(7)] == [1]


def test_runs_of_incasem_tell_their_parents_in_their_configuration(store: RunStore, write_run: WriteRun) -> None:
    predictions = store.sibling("predictions")
    write_run(predictions, 1, config={"prediction": {"run_id_training": 1841}})
    write_run(store, 1, config={"training": {"start_from": [1847, "/x/model_checkpoint_1"]}})
    write_run(store, 2, config={"training": {"continue_id": 3, "start_from": None}})
    write_run(store, 3, config={"training": {"start_from": None}}, info={"parent": None})
    assert predictions.summaries()[0].parents == (("trainings", 1841),)
    assert predictions.summaries()[0].parent == {"training_run_id": 1841}
    assert [run.parents for run in store.summaries()] == [(("trainings", 1847),), (("trainings", 3),), ()]


def test_metrics_that_sacred_itself_recorded_are_summed_up_when_named(store: RunStore, tmp_path: Path) -> None:
    from sacred import Experiment
    from sacred.observers import FileStorageObserver, MongoObserver

    experiment = Experiment("theirs", interactive=True, save_git_info=False)
    if isinstance(store, MongoStore):
        observer = MongoObserver.create_from(
            store.database["runs"], store.files, metrics_collection=store.database["metrics"]
        )
    else:
        assert isinstance(store, FileStore)
        observer = FileStorageObserver(store.folder)
    experiment.observers.append(observer)
    experiment.add_config({"training": {"iterations": 3}})

    def main(_run) -> float:  # type: ignore[no-untyped-def]
        for step, value in ((1, 0.5), (2, 0.75), (3, 0.25)):
            _run.log_scalar("dice", value, step)
        return 0.25

    experiment.main(main)
    experiment.run(options={"--capture": "no", "--loglevel": "ERROR"})
    (run,) = store.summaries(("training.iterations",), metrics=("dice", "absent"))
    assert (run.status, run.result, run.name, run.command) == ("COMPLETED", 0.25, "theirs", "main")
    assert run.config == {"training.iterations": 3}
    assert (run.summary["dice"]["max"], run.summary["dice"]["max_step"], run.summary["dice"]["last"]) == (0.75, 2, 0.25)


def test_a_damaged_run_is_listed_as_damaged_among_the_others(write_run: WriteRun, tmp_path: Path) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    for run_id in range(1, 6):
        write_run(store, run_id)
    (store.folder / "2" / "run.json").write_text('{"status": "COMPL')
    (store.folder / "3" / "info.json").write_bytes(b"\xff\xfe")
    (store.folder / "4" / "run.json").write_text("[]")
    for _ in range(2):
        found = store.summaries(("*",))
        assert [run.status for run in found] == ["COMPLETED", "DAMAGED", "DAMAGED", "DAMAGED", "COMPLETED"]
        assert str(store.folder / "2" / "run.json") in found[1].damage


def test_keys_of_a_configuration_that_look_like_paths_or_commands_are_columns_too(
    store: RunStore, write_run: WriteRun
) -> None:
    config = {"loss": {"$kind": "dice", "a.b": 2}, "e.f": 3}
    run_experiment(name="x", config=config, main=lambda run: None, store=store)
    (run,) = store.summaries(("loss.$kind", "loss.a.b", "e.f", "a..b", "", "absent.", "$x"))
    assert run.config == {"loss.$kind": "dice", "loss.a.b": 2, "e.f": 3}
