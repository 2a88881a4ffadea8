"""``runs list`` and ``runs best``, as files and on a server."""

import csv
import io
import json
import subprocess

from commands.lab import Lab, at_a_terminal

from incasem_like.commands.tables import size


def test_a_list_shows_what_matters_newest_first(four_trainings: Lab) -> None:
    shown = four_trainings.ask("runs", "list")
    assert shown.status == 0
    assert shown.column("id") == ["4", "3", "2", "1"]
    assert shown.rows[0] == ["id", "name", "status", "started", "took", "iteration", "dice", "loss", "organelle"]
    assert shown.rows[2] == [
        "3",
        "mito_3",
        "COMPLETED",
        "2026-01-01",
        "15:00",
        "3",
        "min",
        "0",
        "s",
        "30",
        "0.74",
        "0.22",
        "mito",
    ]
    assert shown.rows[1][-4:] == ["-", "-", "-", "-"]


def test_filters_of_every_sort_hold_together(four_trainings: Lab) -> None:
    ask = four_trainings.ask
    assert ask("runs", "list", "status=COMPLETED", "organelle=er", "dice>0.8").column("id") == ["2"]
    assert ask("runs", "list", "lr<=1e-4", "--sort", "dice").column("id") == ["3", "2"]
    assert ask("runs", "list", "name~mito|er", "--sort=-loss", "--limit", 2).column("id") == ["1", "3"]
    nothing = ask("runs", "list", "dice>0.99")
    assert (nothing.status, nothing.output) == (0, "")
    assert "None of the 4 runs in" in nothing.error


def test_what_came_of_a_training_is_about_its_organelle(four_trainings: Lab) -> None:
    parent = {"parent": {"training_run_id": 3}}
    raw = {"name": "cell", "file": "/data/cell.zarr", "content_hashes": {"/data/cell.zarr/volumes/raw": "a" * 64}}
    four_trainings.add(1, "predictions", info={**parent, "inputs": [raw]})
    four_trainings.add(2, "predictions", info={"parent": {"training_run_id": 1}, "inputs": [raw]})
    four_trainings.add(3, "predictions", info={"parent": {"training_run_id": 99}, "inputs": [raw]})
    four_trainings.add(4, "evaluations", info={"prediction_run_id": 1})
    ask = four_trainings.ask
    assert ask("runs", "list", "organelle=mito", "--kind", "predictions").column("id") == ["1"]
    shown = ask("runs", "list", "--kind", "predictions", "--csv", "--columns", "id,organelle", "--sort", "id")
    assert shown.output.split() == ["id,organelle", "1,mito", "2,er", "3,"]
    assert ask("runs", "list", "organelle=mito", "--kind", "evaluations").column("id") == ["4"]
    assert ask("runs", "list", "organelle=mito", "--all", "--columns", "kind,id").column("kind") == [
        "evaluation", "prediction", "training",
    ]  # fmt: skip


def test_a_dot_in_a_configuration_key_is_no_matter(lab: Lab) -> None:
    from incasem_like.tracking import run_experiment

    for number in (1, 2):
        config = {"training": {"rates": {"cell.v1": number}}}
        run_experiment(name="train", config=config, main=lambda run: None, store=lab.store())
    listed = lab.ask("runs", "list", "training.rates.cell.v1>1", "--columns", "id,training.rates.cell.v1", "--csv")
    assert listed.output.split() == ["id,training.rates.cell.v1", "2,2"]
    assert lab.ask("runs", "list", "--columns", "id,v1", "--csv").output.split()[1:] == ["2,2", "1,1"]
    assert lab.ask("runs", "list", "--columns", "id,cell.v1", "--csv").output.split()[1:] == ["2,2", "1,1"]


def test_what_cannot_be_shown_is_said_in_a_sentence(four_trainings: Lab) -> None:
    for words, said in (
        (("list", "--columns", ""), "--columns names what to show"),
        (("list", "--columns", "+"), "--columns names what to show"),
        (("best", "dice", "--largest", "--smallest"), "give --largest or --smallest, not both"),
    ):
        shown = four_trainings.ask("runs", *words)
        assert (shown.status, shown.output) == (2, "")
        assert said in shown.error


def test_no_metric_is_asked_for_where_there_are_no_runs(lab: Lab) -> None:
    shown = lab.ask("runs", "best", "dice")
    assert shown.status == 2
    assert "there are none yet" in shown.error


def test_an_empty_store_says_so(lab: Lab) -> None:
    shown = lab.ask("runs", "list")
    assert (shown.status, shown.output) == (0, "")
    assert shown.error.startswith("No runs yet in ")


def test_columns_are_chosen_or_added(four_trainings: Lab) -> None:
    chosen = four_trainings.ask("runs", "list", "--columns", "id,lr,dice.last,num_fmaps")
    assert chosen.rows[0] == ["id", "lr", "dice.last", "num_fmaps"]
    assert chosen.rows[2] == ["3", "0.0001", "0.64", "12"]
    added = four_trainings.ask("runs", "list", "--columns", "+lr")
    assert added.rows[0][:3] == ["id", "name", "status"]
    assert added.rows[0][-1] == "lr"
    assert "did you mean 'dice'" in four_trainings.refused("runs", "list", "--columns", "id,dise")


def test_json_and_csv_hold_whole_values(four_trainings: Lab) -> None:
    whole = json.loads(four_trainings.ask("runs", "list", "--json").output)
    assert [run["id"] for run in whole] == [4, 3, 2, 1]
    assert whole[1]["metrics"]["dice_class_1"]["max_step"] == 20
    assert whole[1]["start_time"] == "2026-01-01T15:00:00+00:00"
    some = json.loads(four_trainings.ask("runs", "list", "--json", "--columns", "id,took,organelle,lr").output)
    assert some[1] == {"id": 3, "took": 180.0, "organelle": ["mito"], "lr": 0.0001}
    rows = list(csv.DictReader(io.StringIO(four_trainings.ask("runs", "list", "--csv").output)))
    assert rows[1]["started"] == "2026-01-01T15:00:00+00:00"
    assert (rows[1]["took"], rows[1]["dice"], rows[0]["dice"]) == ("180.0", "0.74", "")
    assert "--json or --csv" in four_trainings.refused("runs", "list", "--csv", "--json")


def test_all_kinds_stand_in_one_list(four_trainings: Lab) -> None:
    parent = {"parent": {"training_run_id": 2, "iteration": 30, "sha256": "c" * 64}}
    four_trainings.add(9, "predictions", name="whole_cell", info=parent)
    four_trainings.add(1, "bootstrapping")
    shown = four_trainings.ask("runs", "list", "--all")
    assert shown.column("kind") == ["bootstrapping", "prediction", "training", "training", "training", "training"]
    assert four_trainings.ask("runs", "list", "--kind", "prediction", "parent~training 2").column("id") == ["9"]
    assert four_trainings.ask("runs", "list", "--all", "dice>0.8").column("id") == ["2"]


def test_a_person_sees_a_table_and_a_pipe_plain_lines(four_trainings: Lab) -> None:
    command = four_trainings.command("runs", "list")
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert plain.stdout.isascii()
    drawn = at_a_terminal(command)
    assert "━" in drawn or "─" in drawn
    assert "mito_3" in drawn
    assert "…" not in drawn


def test_the_best_run_comes_with_its_checkpoint_and_the_command_that_takes_it(four_trainings: Lab) -> None:
    checkpoint = {"iteration": 20, "path": "models/0005/model_checkpoint_20", "sha256": "d" * 64, "bytes": 1}
    summary = {"dice_class_1": {"last": 0.1, "last_step": 30, "min": 0.1, "min_step": 30, "max": 0.9, "max_step": 20}}
    four_trainings.add(5, name="top", info={"summary": summary, "checkpoints": [checkpoint]})
    shown = four_trainings.ask("runs", "best", "dice")
    assert shown.column("id") == ["5", "2", "3", "1"]
    assert "Best dice_class_1: 0.9000 in training run 5 (top), iteration 20." in shown.output
    assert "scripts/03_predict/predict.py --run_id 5 --checkpoint 20" in shown.output
    assert four_trainings.ask("runs", "best", "loss", "--limit", 1).column("id") == ["2"]
    assert four_trainings.ask("runs", "best", "dice", "organelle=mito").column("id") == ["3"]
    assert four_trainings.ask("runs", "best", "learning_rate", "--smallest").column("id")[0] != "1"
    assert "add --largest or --smallest" in four_trainings.refused("runs", "best", "learning_rate")
    assert "which is not a metric" in four_trainings.refused("runs", "best", "took")
    assert "No run that meets the filters" in four_trainings.refused("runs", "best", "dice", "status=FAILED")


def test_sizes_are_written_for_people() -> None:
    assert [size(count) for count in (0, 999, 1234, 5_830_000, 1_200_000_000)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "5.83 MB",
        "1.2 GB",
    ]
