"""``runs export``, ``import`` and ``copy``: a run in another place is the same run."""

import hashlib
import json
from pathlib import Path

import pytest
from commands.lab import Lab

from incasem_like.tracking import Metric, Run, run_experiment


def train(lab: Lab, name: str, parent: int | None = None) -> int:
    """Make a real run with a metric, an artifact and a checkpoint with its state; give its id."""
    made: list[int] = []

    def work(run: Run) -> dict[str, float]:
        made.append(run.id)
        folder = lab.directory / "models" / f"{run.id:04d}"
        folder.mkdir(parents=True)
        (folder / "model_checkpoint_5").write_bytes(f"weights of {name}".encode())
        (folder / "training_state_5").write_bytes(b"state")
        for step in range(6):
            run.log_scalar("loss", 1.0 / (step + 1), step)
        if parent is not None:
            run.set_info("parent", {"training_run_id": parent, "iteration": 5})
        run.register_checkpoint(folder / "model_checkpoint_5", 5, {"loss": 1 / 6}, state=folder / "training_state_5")
        print("trained")
        return {"loss": 1 / 6}

    config = {"lr": 0.1, "sub": {"a.b": [1, 2]}}
    artifacts: dict[str, str | Path] = {"data.json": "{}"}
    run_experiment(name="train", config=config, main=work, store=lab.store(), run_name=name, artifacts=artifacts)
    return made[0]


def told(lab: Lab, run_id: int) -> dict[str, object]:
    """What can be asked of a run, but for the place it is in."""
    whole = json.loads(lab.ask("runs", "show", run_id, "--json").output)
    listed = json.loads(lab.ask("runs", "list", f"id={run_id}", "--json").output)[0]
    info = {key: whole["info"].get(key) for key in ("summary", "parent", "inputs")}
    kept = ("name", "status", "start_time", "stop_time", "tags", "notes", "result", "config", "meta", "artifacts")
    return {
        **{key: whole[key] for key in kept},
        "info": info,
        "metrics": listed["metrics"],
        "output": lab.ask("runs", "show", run_id, "--output").output,
        "artifact": lab.ask("runs", "show", run_id, "--artifact", "data.json").output,
        "points": {name: _points(metric) for name, metric in lab.store().get(run_id).metrics.items()},
    }


def _points(metric: Metric) -> list[tuple[int, float, int]]:
    """Steps, values, and times in milliseconds, which is what a database keeps of them."""
    milliseconds = [int(moment.timestamp() * 1000) for moment in metric.timestamps]
    return list(zip(metric.steps, metric.values, milliseconds, strict=True))


@pytest.fixture
def elsewhere(lab: Lab, tmp_path: Path) -> Lab:
    """Another machine, which keeps its runs as files."""
    return Lab(tmp_path / "other machine", None, lab.read_output)


def test_a_run_goes_by_folder_to_another_machine_and_is_the_same(lab: Lab, elsewhere: Lab, tmp_path: Path) -> None:
    run_id = train(lab, "traveller")
    lab.ask("runs", "tag", run_id, "good")
    lab.ask("runs", "note", run_id, "take this one")
    shown = lab.ask("runs", "export", run_id, tmp_path / "parcel")
    assert shown.status == 0, shown
    assert "Exported training run 1 (traveller)" in shown.output
    assert "Wrote training run 1 (traveller)" in elsewhere.ask("runs", "import", tmp_path / "parcel").output
    assert told(elsewhere, 1) == told(lab, run_id)
    kept = elsewhere.ask("runs", "checkpoints", 1)
    assert (kept.status, kept.output.splitlines()[1].split()[:3]) == (0, ["5", "last", "0.1667"])
    weights = (elsewhere.directory / "models/0001/model_checkpoint_5").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == lab.store().get(1).checkpoints[0].sha256
    assert "already" in elsewhere.refused("runs", "import", tmp_path / "parcel")


def test_runs_that_travel_together_stay_tied_under_new_ids(lab: Lab, elsewhere: Lab, tmp_path: Path) -> None:
    train(elsewhere, "was here before")
    base = train(lab, "base")
    train(lab, "tuned", parent=base)
    assert lab.ask("runs", "export", 2, 1, tmp_path / "parcels").status == 0
    shown = elsewhere.ask("runs", "import", tmp_path / "parcels").output
    assert "training run 2 (base), which was run 1 before" in shown
    assert "training run 3 (tuned), which was run 2 before" in shown
    assert elsewhere.ask("runs", "list", "parent=training 2").column("id") == ["3"]


def test_a_run_is_copied_into_another_store(lab: Lab, elsewhere: Lab, tmp_path: Path) -> None:
    train(lab, "doubled")
    other = tmp_path / "shared"
    shown = lab.ask("runs", "copy", 1, "--to", other)
    assert shown.status == 0, shown
    assert f"Wrote training run 1 (doubled): {other}" in shown.output
    there = Lab(lab.directory, None, lab.read_output)
    assert there.ask("runs", "list", "-F", other).column("name") == ["doubled"]
    if lab.url:
        train(elsewhere, "back")
        back = elsewhere.ask("runs", "copy", 1, "--to", lab.url, "--new_ids")
        assert back.status == 0, back
        assert lab.ask("runs", "list").column("name") == ["back", "doubled"]


def test_what_cannot_be_moved_is_said_in_a_sentence(lab: Lab, tmp_path: Path) -> None:
    train(lab, "stays")
    assert "is read as a run: write the folder last" in lab.refused("runs", "export", 1, 2)
    assert "is not ID... FOLDER" in lab.refused("runs", "export", 1)
    assert "There is no training run 9" in lab.refused("runs", "export", 9, tmp_path / "parcel")
    assert "holds no exported run" in lab.refused("runs", "import", tmp_path)
    assert "Missing option '--to'" in lab.refused("runs", "copy", 1)
    same = lab.url or lab.directory / "tracking"
    assert "--to names the store that the runs are in" in lab.refused("runs", "copy", 1, "--to", same)
    assert not (tmp_path / "parcel").exists()


def test_a_damaged_parcel_is_refused_whole(lab: Lab, elsewhere: Lab, tmp_path: Path) -> None:
    train(lab, "traveller")
    lab.ask("runs", "export", 1, tmp_path / "parcel")
    (damaged,) = (path for path in (tmp_path / "parcel").rglob("model_checkpoint_5*"))
    damaged.write_bytes(b"weights of traveleer")
    elsewhere.refused("runs", "import", tmp_path / "parcel")
    assert elsewhere.store().ids() == []


def test_a_parcel_without_checkpoints_is_light(lab: Lab, tmp_path: Path) -> None:
    train(lab, "light")
    lab.ask("runs", "export", 1, tmp_path / "parcel", "--no_checkpoints")
    assert not list((tmp_path / "parcel").rglob("*checkpoint_5*"))
