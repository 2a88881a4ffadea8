import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from incasem_like.prediction import SERIES_FIGURE
from incasem_like.tracking import open_store, run_experiment
from incasem_like.viewing.planes import around, busiest_point, plane_aspects, read_planes
from incasem_like.viewing.run_report import curves_of_run, report_of_run, report_of_runs, slices_of_volumes
from incasem_like.viewing.series_figure import series_figure
from incasem_like.volumes import Roi, create_volume

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "04_postprocessing" / "40_run_report.py"


@pytest.fixture
def runs(tmp_path) -> Path:
    def work(run):
        for step in range(1, 4):
            run.log_scalar("loss_train_0", 1 / step, step)
            run.log_scalar("dice_class_1", step / 4, step)
        return {"best": 0.75}

    store = open_store(None, "trainings", tmp_path / "runs")
    run_experiment(name="train", config={"training": {"iterations": 3}}, main=work, store=store, run_name="small")
    return tmp_path / "runs"


def test_the_report_of_a_run_holds_its_facts_curves_and_configuration(runs):
    report = report_of_run(open_store(None, "trainings", runs).get(1))
    assert dict(report.facts)["status"] == "COMPLETED"
    assert dict(report.facts)["name"] == "small"
    assert "iterations: 3" in report.configuration
    assert [picture.heading for picture in report.pictures] == ["Training"]


def test_the_report_of_a_series_shows_its_figure_and_names_the_best(tmp_path):
    scores = {step: {"dice_class_1": step / 40, "dice_class_1_ds_0": step / 40} for step in (10, 20, 30)}
    drawn = series_figure(scores, ["cell"], ("dice_class_1_ds_0", 30))

    def work(run):
        run.add_artifact(drawn, SERIES_FIGURE)
        return {"best_iteration": 30, "best_metric": "dice_class_1"}

    store = open_store(None, "predictions", tmp_path)
    run_experiment(name="predict_multiple", config={}, main=work, store=store)
    (picture,) = report_of_run(store.get(1)).pictures
    assert picture.image == drawn
    assert "iteration 30 is the best by dice_class_1" in picture.caption


def test_a_series_is_drawn_by_kind_of_score_with_objects_only_and_the_best_ringed(monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "incasem_like.viewing.series_figure.curves_figure",
        lambda panels, columns, marks: drawn.update(panels=panels, marks=marks) or b"",
    )
    names = [
        f"{kind}_{number}{end}"
        for kind in ("recall", "dice_class")
        for number in (0, 1, 2)
        for end in ("", "_ds_0", "_ds_1")
    ]
    scores = {step: dict.fromkeys(names, step / 10) for step in (1, 2)}
    del scores[2]["dice_class_2_ds_1"]
    series_figure(scores, ["left", "right"], ("dice_class_1", 2))
    assert list(drawn["panels"]) == ["dice", "recall"]
    labels = [curve.label for curve in drawn["panels"]["dice"]]
    assert labels == [f"class {number}, {of}" for number in (1, 2) for of in ("mean", "left", "right")]
    assert np.isnan(drawn["panels"]["dice"][-1].values[1])
    assert (drawn["marks"]["dice"].step, drawn["marks"]["dice"].value) == (2, 0.2)
    series_figure(scores, ["left"], None)
    assert [curve.label for curve in drawn["panels"]["recall"]] == ["class 1", "class 2"]


def test_a_run_without_curves_has_no_picture(tmp_path):
    store = open_store(None, "evaluations", tmp_path)
    run_experiment(name="evaluate", config={}, main=lambda run: 1.0, store=store, run_name=None)
    assert curves_of_run(store.get(1)) is None


def run_script(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_the_script_writes_the_page_and_names_an_unknown_run(runs, tmp_path):
    done = run_script("--run_id", 1, "--runs_directory", runs, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert "Run 1: small" in (tmp_path / "page.html").read_text()
    wrong = run_script("--run_id", 7, "--runs_directory", runs, "-o", tmp_path / "none.html")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    assert "7" in wrong.stderr
    assert not (tmp_path / "none.html").exists()


@pytest.fixture
def volume(tmp_path):
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[5, 2:9, 3:11] = 1
    labels[:, 6, 4] = 1
    made = create_volume(
        tmp_path / "v.zarr", "volumes/labels", shape=labels.shape, dtype=np.uint8, voxel_size=(50, 4.6, 4.6)
    )
    made.write(labels)
    made.mark_complete()
    return made, labels


def test_planes_are_those_of_the_array(volume):
    made, labels = volume
    planes = read_planes(made, Roi((1, 0, 2), (6, 10, 9)), (5, 6, 4))
    np.testing.assert_array_equal(planes["xy"], labels[5, :, 2:11])
    np.testing.assert_array_equal(planes["xz"], labels[1:7, 6, 2:11])
    np.testing.assert_array_equal(planes["yz"], labels[1:7, :, 4])


def test_the_busiest_point_lies_where_most_foreground_is(volume):
    made, _ = volume
    assert busiest_point(made, made.roi)[0] == 5


def test_thick_sections_are_drawn_thick():
    assert plane_aspects((50, 4.6, 4.6))["xy"] == 1
    assert plane_aspects((50, 4.6, 4.6))["xz"] == pytest.approx(50 / 4.6)


def test_slices_work_with_and_without_truth(volume):
    made, _ = volume
    assert slices_of_volumes(made, {"truth": made, "prediction": made}).image.startswith(b"\x89PNG")
    assert slices_of_volumes(made, {"prediction": made}).image.startswith(b"\x89PNG")


def test_slices_of_a_large_volume_are_cut_around_the_point():
    assert around(Roi((5, 0, 0), (20, 5000, 600)), (6, 4990, 10), most=768) == Roi((5, 4232, 0), (20, 768, 600))
    assert around(Roi((0, 0, 0), (9, 9, 9)), (4, 4, 4), most=4) == Roi((2, 2, 2), (4, 4, 4))


def test_channels_are_read_as_colours(tmp_path):
    array = np.stack([np.full((4, 5, 6), value, np.uint8) for value in (255, 51)])
    made = create_volume(
        tmp_path / "v.zarr", "affs", shape=array.shape, dtype=np.uint8, voxel_size=(50, 4, 4), axes="czyx"
    )
    made.write(array)
    planes = read_planes(made, made.roi, (1, 2, 3))
    assert {plane: image.shape for plane, image in planes.items()} == {
        "xy": (5, 6, 3),
        "xz": (4, 6, 3),
        "yz": (4, 5, 3),
    }
    np.testing.assert_allclose(planes["xz"][2, 2], (1, 0.2, 0))


@pytest.fixture
def chain(tmp_path, volume):
    """A training that started from another, and a prediction of it."""
    made, labels = volume
    raw = create_volume(tmp_path / "v.zarr", "volumes/raw", shape=labels.shape, dtype=np.uint8, voxel_size=(50, 4, 4))
    raw.write(labels * 50 + 60)
    raw.mark_complete()
    segmentation = "volumes/predictions/train_0002/predict_0001/segmentation"
    written = create_volume(
        tmp_path / "v.zarr", segmentation, shape=labels.shape, dtype=np.uint8, voxel_size=(50, 4, 4)
    )
    written.write(labels)
    written.mark_complete()
    inputs = [{"file": str(tmp_path / "v.zarr"), "content_hashes": {str(v.address): "ab" for v in (raw, made)}}]

    def train(run):
        run.inputs(inputs)
        for step in (1, 2):
            run.log_scalar("loss_train_0", run.config["lr"] / step, step)

    def start_from(run):
        run.set_info("parent", {"training_run_id": 1})
        train(run)

    def predict(run):
        run.set_info("parent", {"training_run_id": 2})
        run.inputs([{"file": str(tmp_path / "v.zarr"), "content_hashes": {str(raw.address): "ab"}}])
        return {"outputs": {"cell": str(written.address)}}

    trainings = open_store(None, "trainings", tmp_path / "runs")
    run_experiment(name="train", config={"lr": 0.5, "seed": 1}, main=train, store=trainings)
    run_experiment(name="train", config={"lr": 0.25, "seed": 1}, main=start_from, store=trainings)
    predictions = open_store(None, "predictions", tmp_path / "runs")
    run_experiment(name="predict", config={"name": "small"}, main=predict, store=predictions)
    return tmp_path / "runs"


def test_the_report_shows_slices_tables_commands_and_the_parent(chain):
    report = report_of_run(open_store(None, "trainings", chain).get(2))
    assert [picture.heading for picture in report.pictures] == ["Training", "Slices"]
    tables = {table.heading: [list(row) for row in table.rows] for table in report.tables}
    assert tables["Differences from training 1"] == [["lr", "0.5", "0.25"]]
    assert tables["Metrics"] == [["loss_train_0", "0.125", "2", "0.125", "2", "0.25", "1"]]
    assert report.commands[-1].text == "python scripts/02_train/train.py --repeat_run 2"
    of_prediction = report_of_run(open_store(None, "predictions", chain).get(1))
    assert [command.text for command in of_prediction.commands][-2:] == [
        "incasem-like runs show predictions/1 --config > prediction_1.yaml",
        "python scripts/03_predict/predict.py --run_id 2 with prediction_1.yaml",
    ]
    assert "from training run 2" in of_prediction.methods
    assert "prediction: " in of_prediction.pictures[0].caption


def test_a_report_does_without_volumes_that_are_gone(chain, tmp_path):
    (tmp_path / "v.zarr").rename(tmp_path / "moved.zarr")
    report = report_of_run(open_store(None, "trainings", chain).get(2))
    assert [picture.heading for picture in report.pictures] == ["Training"]


def test_a_comparison_shows_differing_keys_and_marks_the_best_scores(chain):
    store = open_store(None, "trainings", chain)
    report = report_of_runs([store.get(1), store.get(2)])
    tables = {table.heading: [list(row) for row in table.rows] for table in report.tables}
    assert tables == {
        "Configuration": [["lr", "0.5", "0.25"]],
        "Scores (* the best run)": [["loss_train_0 (min)", "0.25", "0.125 *"]],
    }
    assert report.pictures[0].heading == "Curves"
    assert [picture.heading for picture in report.side_pictures] == ["Slices of training 1", "Slices of training 2"]


def test_the_command_writes_one_page_with_lineage_and_a_comparison(chain, tmp_path, monkeypatch, capsys):
    from incasem_like.commands.cli import answer

    monkeypatch.chdir(tmp_path)
    answer(["report", "2", "--runs_directory", str(chain)])
    page = Path("report_trainings_0002.html").read_text()
    assert "Lineage" in page
    assert "data:image/svg+xml;base64," in page
    answer(["report", "1", "2", "--runs_directory", str(chain), "-o", "both.html"])
    assert "Comparison of training 1, training 2" in Path("both.html").read_text()
    assert "both.html" in capsys.readouterr().out
