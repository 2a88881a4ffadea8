"""Which checkpoints a series predicts with, what it refuses, and what its dry run says."""

import math
import shutil

import pytest
import torch
from prediction.series_lab import steps

from incasem_like.errors import CheckpointError, ConfigError, DivergedError, InputError
from incasem_like.networks import load_checkpoint
from incasem_like.tracking import open_store


def test_the_range_is_refused_before_anything_is_written(series):
    for updates, sentence in (
        (["series.start=7"], "has no checkpoint from iteration 7 to 2"),
        (
            ["series.start=2", "series.stop=6", "series.step=2"],
            "no checkpoint of iteration 4, 6, .* it has 1, 2; leave",
        ),
        (["series.start=0", "series.step=1"], r"has no checkpoint of iteration 0, which series.step=1 asks for: it"),
        (["series.metric=dice"], r"series.metric is 'dice', which is not a score of 2 classes and 1 region"),
        (["series.checkpoint_dir=/nowhere"], "The folder /nowhere does not exist"),
        ([f"series.checkpoint_dir={series.runs}"], "holds no file called model_checkpoint_ and a number"),
    ):
        with pytest.raises((CheckpointError, ConfigError), match=sentence):
            series.predict(*updates)
    assert series.store.ids() == []
    assert not (series.container / "volumes" / "predictions").exists()


def test_a_range_and_the_best_are_taken(series):
    for number in (3, 4, 5):
        series.register(number)
    assert [entry.iteration for entry in series.predict("series.start=2", "series.stop=4").entries] == [2, 3, 4]
    assert [entry.iteration for entry in series.predict("series.step=2", "series.keep=none").entries] == [1, 3, 5]
    best = series.predict("series.best=2", "series.keep=none")  # the training measured 0.9, 0.5 and 0.1
    assert [entry.iteration for entry in best.entries] == [1, 2]


def test_files_of_a_folder_predict_though_nobody_registered_them(series, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for iteration in (1, 2):
        shutil.copy(series.checkpoint(iteration), folder / f"net_{iteration:05d}")
    updates = (f"series.checkpoint_dir={folder}", "series.checkpoint_basename=net_")
    assert [entry.iteration for entry in series.predict(*updates).entries] == [1, 2]
    (folder / "net_00003").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="net_00003"):
        series.predict(*updates)
    assert series.store.ids() == [1]


def test_a_damaged_checkpoint_is_refused_before_anything_is_written(series):
    series.checkpoint(2).write_bytes(series.checkpoint(2).read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=r"model_checkpoint_2 .* is another file"):
        series.predict()
    assert series.store.ids() == []


def test_a_lost_checkpoint_is_left_out_unless_it_is_asked_for(series, caplog):
    series.checkpoint(2).unlink()
    with pytest.raises(CheckpointError, match=r"model_checkpoint_2 .* cannot be had here"):
        series.predict("series.step=1")
    assert [entry.iteration for entry in series.predict().entries] == [1]
    assert "left out: iteration 2" in caplog.text


def diverge(series, iteration):
    network = series.laboratory.network
    load_checkpoint(series.checkpoint(1), network)
    with torch.no_grad():
        network.final_conv_pass.conv_pass[0].bias[0] = math.nan
    series.register(iteration, 0.0)


def test_a_network_that_diverged_is_noted_and_the_others_go_on(series):
    diverge(series, 3)
    with torch.no_grad():
        series.laboratory.network.final_conv_pass.conv_pass[0].bias[0] = 0.1
    series.register(4)
    finished = series.predict()
    assert [entry.iteration for entry in finished.entries if entry.problem] == [3]
    record = series.store.get(1)
    assert (record.status, steps(record)) == ("COMPLETED", (1, 2, 4))
    assert "NaN or Inf" in record.result["problems"]["3"]
    assert not series.folder(1, 3).exists()
    with pytest.raises(DivergedError, match="NaN or Inf"):
        series.predict("series.start=3", "series.stop=3")
    assert series.store.get(2).status == "FAILED"


def test_a_series_that_goes_on_elsewhere_is_not_started_again(series, stopping, monkeypatch):
    with stopping(2):
        series.predict()
    monkeypatch.setattr("incasem_like.tracking.stores.records.honest_status", lambda *told: "RUNNING")
    with pytest.raises(InputError, match="is still running"):
        series.predict()
    assert series.predict(anew=True).run_id == 2


def test_the_dry_run_says_it_all_and_writes_nothing(series, stopping):
    found = series.examine("series.keep=best")
    said = "\n".join(found.lines)
    assert found.problems == []
    assert "Checkpoints: 2 of iteration 1, 2." in said
    assert "the best stays on disk" in said
    assert "predict_0001/iteration_000001" in said
    assert series.store.ids() == []
    assert not (series.container / "volumes" / "predictions").exists()
    with stopping(2):
        series.predict()
    assert "run 1 is resumed, 1 of them are left" in "\n".join(series.examine().lines)
    series.predict()
    assert series.examine().lines[-1] == "Nothing is left to be done."


def test_the_dry_run_lists_all_problems(series):
    entries = {"cell_er": series.laboratory.entry(raw="volumes/nothing"), "other": series.laboratory.entry(mask="x")}
    found = series.examine("series.start=9", "series.metric=nice", "torch.device=99", entries=entries)
    said = " ".join(found.problems)
    assert "no checkpoint from iteration 9" in said
    assert "torch.device=99" in said


def test_without_a_record_it_predicts_all_the_same(series):
    finished = series.predict(store=lambda: None)
    assert (finished.run_id, finished.predicted) == (0, 2)
    assert series.folder(0, 2).is_dir()


def test_predictions_of_another_store_are_neither_written_over_nor_deleted(series):
    series.predict("series.keep=best")
    there = {one for one in (1, 2) if series.folder(1, one).exists()}
    other = open_store(series.laboratory.folder / "other_store", "predictions", series.runs)
    with pytest.raises(InputError, match=r"predict_0001 already holds a prediction"):
        series.predict("series.keep=none", store=lambda: other)
    assert {one for one in (1, 2) if series.folder(1, one).exists()} == there


def test_the_dry_run_takes_an_entry_without_labels_for_no_problem(series):
    labelled, plain = series.laboratory.entry(labels={"volumes/labels/er": 1}), series.laboratory.entry()
    assert series.examine(entries={"labelled": labelled, "plain": plain}).problems == []
    missing = series.laboratory.entry(raw="volumes/nothing")
    (problem,) = series.examine(entries={"labelled": labelled, "plain": plain, "missing": missing}).problems
    assert "volumes/nothing" in problem
