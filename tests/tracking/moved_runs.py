"""Trainings that are moved in tests, and the comparison of what came with what was."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from bson import json_util

from incasem_like.tracking import Run, RunRecord, RunStore, run_experiment
from incasem_like.tracking.run_folder import Journal


def train(store: RunStore, points: int = 3, run_id: int | None = None) -> RunRecord:
    """Leave what a training leaves."""
    ids = []

    def work(run: Run) -> dict[str, float]:
        folder = run.runs_directory / "models" / f"{run.id:04d}"
        folder.mkdir(parents=True)
        for iteration in (5, 10):
            model, state = folder / f"model_checkpoint_{iteration}", folder / f"training_state_{iteration}"
            model.write_text(f"model {run.id} {iteration}")
            state.write_text(f"state {run.id} {iteration}")
            run.register_checkpoint(model, iteration, {"dice": iteration / 10}, state)
        for step in range(points):
            run.log_scalar("loss", 1 / (step + 1), step)
        run.log_scalar("dice", float("nan"), 1)
        run.set_info("parent", {"training_run_id": 4, "sha256": "ab"})
        run.inputs([{"address": "cell.zarr", "content_hash": "cd"}])
        run.add_artifact('{"a": 1}', "data.json")
        print("printed by the run")
        ids.append(run.id)
        return {"dice": 0.5}

    config = {"training": {"iterations": 3, "a.b": [1, None, "x"]}, "$odd": 1}
    run_experiment(name="train", config=config, main=work, store=store, run_name="mito", comment="first", run_id=run_id)
    store.annotate(ids[0], add_tags=["er", "5 nm"], notes="the one in figure 2")
    return store.get(ids[0])


def assert_same(copy: RunRecord, original: RunRecord) -> None:
    """Compare all that is to be the same after a move; MongoDB keeps times to the millisecond."""
    for what in ("name", "comment", "status", "config", "result", "host", "meta", "captured_output", "fail_trace"):
        assert getattr(copy, what) == getattr(original, what), what
    for what in ("tags", "notes", "inputs", "parent", "artifacts", "superseded_checkpoints"):
        assert getattr(copy, what) == getattr(original, what), what
    for what in ("start_time", "stop_time", "heartbeat"):
        assert abs(getattr(copy, what) - getattr(original, what)) < timedelta(milliseconds=1), what
    assert [copy.artifact(name) for name in copy.artifacts] == [original.artifact(name) for name in original.artifacts]
    assert _noted(copy) == _noted(original)
    assert [one.entry["metrics"] for one in copy.checkpoints] == [one.entry["metrics"] for one in original.checkpoints]
    named = [[name for name, _ in record.experiment["sources"]] for record in (copy, original)]
    assert named[0] == named[1]
    assert list(copy.store.read_stored(copy.id, "sources")) == list(original.store.read_stored(original.id, "sources"))


def _noted(record: RunRecord) -> str:
    """Write what a run noted of itself, but for where its checkpoints are; as text, for undefined numbers differ."""
    keys = ("iteration", "sha256", "bytes")
    entries = [{key: entry[key] for key in keys} for entry in record.info.get("checkpoints", [])]
    return json.dumps({**record.info, "checkpoints": entries}, sort_keys=True)


def points(record: RunRecord) -> dict[str, list[tuple[int, str]]]:
    return {
        name: [(step, repr(value)) for step, value in zip(metric.steps, metric.values, strict=True)]
        for name, metric in record.metrics.items()
    }


def write_journal(journal: Journal, document: Mapping[str, Any], description: str) -> None:
    """Leave in a journal what a process of an earlier version left that was killed during an outage."""
    content = json_util.dumps({"database": description, "run": document})
    (journal.folder / "run.json").write_text(content)
