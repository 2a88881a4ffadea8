"""Commands on single runs: show, checkpoints, note, tag, compare."""

import hashlib
import json
from pathlib import Path

import pytest
from commands.lab import Lab, metric

SHA = "0123456789ab" + "0" * 52


def keep_checkpoint(lab: Lab, run_id: int, iteration: int, content: bytes, *, state: bool = True) -> dict[str, object]:
    """Write a checkpoint with its state, and give what a run registers of it."""
    folder = lab.directory / "models" / f"{run_id:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model_checkpoint_{iteration}"
    path.write_bytes(content)
    if state:
        (folder / f"training_state_{iteration}").write_bytes(b"state")
    return {
        "iteration": iteration,
        "path": str(path.relative_to(lab.directory)),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "metrics": {"dice_class_1": iteration / 100, "loss": 1 / iteration},
    }


def test_a_run_is_shown_with_all_that_is_known_of_it(four_trainings: Lab) -> None:
    parent = {"training_run_id": 2, "iteration": 30, "sha256": SHA, "checkpoint": "/x"}
    result = {"outputs": {"cell": "/data/cell.zarr/p"}, "prediction_id": 7}
    four_trainings.add(7, "predictions", name="cell", info={"parent": parent}, result=result)
    four_trainings.ask("runs", "tag", 2, "good")
    four_trainings.ask("runs", "note", 2, "used in figure 2")
    shown = four_trainings.ask("runs", "show", 2).output
    for part in (
        "training 2",
        "er_2",
        "COMPLETED",
        "2026-01-01 14:00, took 2 min 0 s",
        "elsewhere",
        "good",
        "figure 2",
    ):
        assert part in shown
    assert "/data/cell.zarr/volumes/labels/er  bbbbbbbbbbbb" in shown
    assert "led to prediction 7 (cell)" in " ".join(shown.split())
    assert "best_value  0.81" in shown
    assert ["dice_class_1", "0.71", "30", "0.1", "10", "0.81", "20"] in [line.split() for line in shown.splitlines()]
    prediction = four_trainings.ask("runs", "show", "predictions/7").output
    assert "training 2, iteration 30, sha256 0123456789ab," in prediction
    assert "ValueError: no" in four_trainings.ask("runs", "show", 4).output


def test_the_sessions_of_a_continued_run_are_told(lab: Lab) -> None:
    first = {"token": "secret1", "start": "2026-01-01T10:00:00", "hostname": "gpu1", "from_iteration": 0}
    second = {**first, "hostname": "gpu2", "start": "2026-01-02T10:00:00", "from_iteration": 40, "before": "KILLED"}
    lab.add(1, info={"sessions": [first]})
    lab.add(2, info={"sessions": [first, second]})
    assert "session 1" not in lab.ask("runs", "show", 1).output
    shown = lab.ask("runs", "show", 2).output
    assert "2026-01-01 10:00, on gpu1\n" in shown
    assert "2026-01-02 10:00, on gpu2, from iteration 40, the one before ended KILLED" in shown
    assert "secret" not in shown


def test_a_repeated_run_is_named(lab: Lab) -> None:
    lab.add(1)
    lab.add(2, info={"repeats": 1})
    assert ["repeats", "training", "1"] in lab.ask("runs", "show", 2).rows
    assert "repeats" not in lab.ask("runs", "show", 1).output


def test_a_run_that_goes_on_with_an_interrupted_prediction_says_so(lab: Lab) -> None:
    lab.add(7)
    lab.add(1, "predictions", status="KILLED", info={"parent": {"training_run_id": 7}})
    members = [{"training_run_id": 7}, {"training_run_id": 8}]
    lab.add(2, "predictions", info={"parent": {"members": members}, "prediction_run_id": 1})
    assert ["resumes", "prediction", "1"] in lab.ask("runs", "show", "predictions/2").rows
    interrupted = lab.ask("runs", "show", "predictions/1")
    assert "resumes" not in interrupted.output
    assert next(row for row in interrupted.rows if row[:1] == ["led"])[:4] == ["led", "to", "prediction", "2"]


def test_parts_of_a_run_can_be_had_alone(four_trainings: Lab) -> None:
    four_trainings.add(8, captured_out="line 1\nline 2\n")
    assert "metrics" not in json.loads(four_trainings.ask("runs", "show", 8, "--json").output)["info"]
    assert four_trainings.ask("runs", "show", 8, "--output").output == "line 1\nline 2\n"
    assert "iterations: 30" in four_trainings.ask("runs", "show", 1, "--config").output
    whole = json.loads(four_trainings.ask("runs", "show", 1, "--json").output)
    assert whole["config"]["training"]["optimizer"]["lr"] == 0.001
    assert whole["start_time"] == "2026-01-01T13:00:00+00:00"
    assert "has no artifact 'x'" in four_trainings.refused("runs", "show", 1, "--artifact", "x")
    assert "did you mean 8" in four_trainings.refused("runs", "show", 9)


def test_checkpoints_are_held_against_what_was_registered(lab: Lab) -> None:
    entries = [keep_checkpoint(lab, 3, iteration, bytes(100 + iteration)) for iteration in (10, 20, 30, 40)]
    entries.append(keep_checkpoint(lab, 3, 50, b"without a state", state=False))
    folder = lab.directory / "models/0003"
    (folder / "model_checkpoint_10").write_bytes(b"x" * 110)
    (folder / "model_checkpoint_20").write_bytes(b"short")
    (folder / "model_checkpoint_30").unlink()
    policy = {"training": {"checkpoints": {"best_metric": "dice_class_1", "best_mode": "max"}}}
    lab.add(3, config=policy, info={"checkpoints": entries})
    shown = lab.ask("runs", "checkpoints", 3)
    assert shown.status == 1
    assert shown.rows[0][:3] == ["iteration", "mark", "dice_class_1"]
    states = {line.split()[0]: " ".join(line.split()) for line in shown.output.splitlines()[1:]}
    assert "changed: other SHA-256" in states["10"]
    assert "changed: 5 bytes, not 120" in states["20"]
    assert "- missing" in states["30"]
    assert "disk complete" in states["40"]
    assert "complete, without state" in states["50"]
    assert "best last" in states["50"]
    assert "length matches" in lab.ask("runs", "checkpoints", 3, "--quick").output.splitlines()[1]


def test_a_run_whose_checkpoints_are_whole_ends_with_status_0(lab: Lab) -> None:
    lab.add(1, info={"checkpoints": [keep_checkpoint(lab, 1, 10, b"weights")]})
    assert lab.ask("runs", "checkpoints", 1).status == 0
    lab.add(2, name="empty")
    assert lab.ask("runs", "checkpoints", 2).output == "Training run 2 (empty) has no checkpoints.\n"


def test_tags_come_and_go(four_trainings: Lab) -> None:
    ask = four_trainings.ask
    assert ask("runs", "tag", 1).output == "Tags of training run 1 (er_1): none\n"
    assert ask("runs", "tag", 1, "+good", "Fig. 2", "-absent").output.endswith(": good, Fig. 2\n")
    assert ask("runs", "tag", 1, "-good", "--debug", "+new").output == "Tags of training run 1 (er_1): Fig. 2, new\n"
    shown = ask("runs", "tag", 1, "+new", "-never")
    assert shown.output == (
        "It had the tag 'new' already.\nIt had no tag 'never'.\nTags of training run 1 (er_1): Fig. 2, new\n"
    )
    for nothing in ("-", "+", "- ", ""):
        assert "A tag cannot be empty" in four_trainings.refused("runs", "tag", 1, nothing)
    assert ask("runs", "list", "tag=new").column("id") == ["1"]
    assert "both added and removed" in four_trainings.refused("runs", "tag", 1, "+a", "-a")
    assert "Unknown flag --colour" in four_trainings.refused("runs", "tag", 1, "--colour")
    assert ask("runs", "tag", "1").output.endswith(": Fig. 2, new\n")


def test_notes_grow_and_are_replaced(four_trainings: Lab) -> None:
    ask = four_trainings.ask
    assert ask("runs", "note", 1).output == "Nothing is noted of training run 1 (er_1).\n"
    ask("runs", "note", 1, "first")
    ask("runs", "note", 1, "second")
    assert ask("runs", "note", 1).output == "first\nsecond\n"
    ask("runs", "note", 1, "--replace", "only")
    assert four_trainings.store().get(1).notes == "only"
    assert "were removed" in ask("runs", "note", 1, "", "--replace").output
    assert "TEXT is missing" in four_trainings.refused("runs", "note", 1, "--replace")


def test_runs_are_compared_where_they_differ(four_trainings: Lab) -> None:
    shown = four_trainings.ask("runs", "compare", 1, 2, 3).output
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line}
    assert lines["training.optimizer.lr"] == ["0.001", "0.0001", "0.0001"]
    assert "training.optimizer.weight_decay" not in lines
    assert lines["dice_class_1"] == ["0.62", "at", "20", "0.81", "at", "20", "*", "0.74", "at", "20"]
    assert lines["loss"] == ["0.31", "at", "10", "0.17", "at", "10", "*", "0.22", "at", "10"]
    assert lines["loss_train_0"] == ["0.1", "at", "10"] * 3
    assert lines["learning_rate"] == ["0.001", "at", "30", "0.0001", "at", "30", "0.0001", "at", "30"]
    same = four_trainings.ask("runs", "compare", 2, 3, "--metric", "loss").output
    assert "The configurations are the same." in same
    assert "dice" not in same
    as_json = json.loads(four_trainings.ask("runs", "compare", 1, 4, "--json").output)
    assert as_json["configuration"]["seed"] == [{"value": 7}, {}]
    assert as_json["metrics"]["dice_class_1"] == [{"value": 0.62, "iteration": 20}, None]


def test_a_comparison_says_what_keeps_runs_from_being_equal_bit_for_bit(lab: Lab) -> None:
    for run_id, threads in enumerate((2, 2, 8), start=1):
        lab.add(run_id, info={"arithmetic": [{"threads": threads, "torch": "2.13.0"}]})
    lab.add(4)
    assert "bit for bit" not in lab.ask("runs", "compare", 1, 2).output
    assert "bit for bit" not in lab.ask("runs", "compare", 3, 4).output
    assert "expected bit for bit: threads 2 | 2 | 8.\n" in lab.ask("runs", "compare", 1, 2, 3).output
    as_json = json.loads(lab.ask("runs", "compare", 2, 3, "--json").output)
    assert as_json["arithmetic"] == {"threads": ["2", "8"]}


def test_a_comparison_wants_two_runs_and_metrics_they_have(four_trainings: Lab) -> None:
    assert "two runs or more" in four_trainings.refused("runs", "compare", 1, 1)
    assert "did you mean 'loss'" in four_trainings.refused("runs", "compare", 1, 2, "--metric", "los")
    assert "ends in .png" in four_trainings.refused("runs", "compare", 1, 2, "--plot", "x.pdf")
    assert "no metric of more than one point" in four_trainings.refused("runs", "compare", 1, 4, "--plot", "x.png")


def test_the_curves_of_runs_are_plotted_into_a_png(lab: Lab, tmp_path: Path) -> None:
    from incasem_like.tracking import Run, run_experiment

    def work(run: Run) -> None:
        for step in range(5):
            run.log_scalar("loss", 1 / (step + run.id), step)

    for name in ("one", "two"):
        run_experiment(name="train", config={}, main=work, store=lab.store(), run_name=name)
    plot = tmp_path / "new folder" / "curves.png"
    shown = lab.ask("runs", "compare", 1, 2, "--plot", plot)
    assert shown.status == 0
    assert str(plot) in shown.output
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("word", ["show", "checkpoints", "note", "tag"])
def test_an_unknown_run_is_named_by_every_command(word: str, lab: Lab) -> None:
    lab.add(3, info={"summary": {"loss": metric(1, 1, 1)}})
    assert "There is no training run 4" in lab.refused("runs", word, 4)
