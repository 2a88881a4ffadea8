"""Series of predictions: one run, a score for each iteration, what is kept, gone on with, refused in one sentence."""

import contextlib
import json
import math
import shutil

import numpy as np
import pytest
import torch
import zarr

from incasem_like.config import load_series_config
from incasem_like.errors import CheckpointError, ConfigError, DivergedError, InputError
from incasem_like.evaluation.prediction_metrics import PredictionMetrics
from incasem_like.networks import load_checkpoint, save_checkpoint
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.prediction.series import Watching, predict_series
from incasem_like.prediction.series_preflight import examine_series
from incasem_like.prediction.tiles import TiledPredictor
from incasem_like.tracking import file_sha256, open_store
from incasem_like.tracking.lineage import written_by

TILES = "prediction.input_size_voxels=[44,44,44]"


class SeriesLab:
    """A training with checkpoints 1 and 2, and what it takes to predict with both."""

    def __init__(self, laboratory):
        self.laboratory, self.runs, self.container = laboratory, laboratory.runs, laboratory.container
        self.store, self.figures = laboratory.store, []
        self.entries = {"cell_er": laboratory.entry(labels={"volumes/labels/er": 1})}

    @property
    def training(self):
        return self.laboratory.training_store.get(1)

    def config(self, *updates, entries=None):
        path = self.laboratory.folder / "series.json"
        path.write_text(json.dumps(entries or self.entries))
        fixed = [f"prediction.data={path}", f"directories.runs={self.runs}", "torch.device=cpu", TILES]
        data = f"directories.data={self.laboratory.folder / 'data'}"
        return load_series_config([], [*fixed, data, *updates])

    def predict(self, *updates, entries=None, **options):
        options.setdefault("store", lambda: self.store)
        watching = Watching(draw=self._draw)
        config = self.config(*updates, entries=entries)
        return predict_series(config, self.training, observing=PredictionMetrics, watching=watching, **options)

    def _draw(self, scores, regions, best):
        self.figures.append((dict(scores), regions, best))
        return b"figure of " + str(sorted(scores)).encode()

    def examine(self, *updates, entries=None, **options):
        return examine_series(
            self.config(*updates, entries=entries), lambda: self.training, lambda: self.store, **options
        )

    def checkpoint(self, iteration):
        return self.runs / "models" / "0001" / f"model_checkpoint_{iteration}"

    def register(self, iteration, change=0.05):
        """Let the training have one more checkpoint, as if it had gone on."""
        network = self.laboratory.network
        with torch.no_grad():
            network.final_conv_pass.conv_pass[0].bias[0] += change
        save_checkpoint(self.checkpoint(iteration), network)
        path = self.checkpoint(iteration)
        entry = {
            "iteration": iteration,
            "path": str(path.relative_to(self.runs)),
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "metrics": {"dice_class_1": 0.1},
        }
        entries = [*self.training.info["checkpoints"], entry]
        self.laboratory.training_store.note(1, {"checkpoints": entries})

    def folder(self, run_id, iteration):
        group = f"volumes/predictions/train_0001/predict_{run_id:04d}/iteration_{iteration:06d}"
        return self.container / group

    def stored(self, run_id, iteration, dataset="prob_maps/class_1"):
        return np.asarray(zarr.open(str(self.folder(run_id, iteration)), mode="r")[dataset])


@pytest.fixture
def series(laboratory):
    return SeriesLab(laboratory)


@pytest.fixture
def stopping(monkeypatch):
    """Stop the prediction in process at the n-th block, as ctrl-C would."""
    original = TiledPredictor.predict_parts

    @contextlib.contextmanager
    def stop(at):
        calls = []

        def interrupting(self, read, tiles, depth=None):
            calls.append(tiles)
            if len(calls) == at:
                raise KeyboardInterrupt
            return original(self, read, tiles, depth)

        with monkeypatch.context() as patch:
            patch.setattr(TiledPredictor, "predict_parts", interrupting)
            with pytest.raises(KeyboardInterrupt):
                yield

    return stop


def steps(record, name="dice_class_1"):
    return record.metrics[name].steps


def test_each_checkpoint_predicts_what_it_predicts_alone(series):
    finished = series.predict(run_name="both")
    assert (finished.run_id, finished.predicted) == (1, 2)
    for iteration in (1, 2):
        config = series.laboratory.config(None, TILES, f"prediction.checkpoint={iteration}")
        alone = series.laboratory.predict(config).places["cell_er"]
        expected = np.asarray(zarr.open(str(alone.folder), mode="r")["prob_maps/class_1"])
        np.testing.assert_array_equal(series.stored(1, iteration), expected)


def test_one_run_names_every_checkpoint_and_logs_scores_by_iteration(series):
    series.predict(run_name="both")
    record = series.store.get(1)
    assert (record.status, record.name) == ("COMPLETED", "both")
    assert series.store.summaries()[0].parents == (("trainings", 1),)
    noted = {one["iteration"]: one["sha256"] for one in record.info["series"]["checkpoints"]}
    assert noted == {one.iteration: one.sha256 for one in series.training.checkpoints}
    assert steps(record) == steps(record, "jaccard_class_1_ds_0") == (1, 2)
    by_iteration = dict(zip(steps(record), record.metrics["dice_class_1"].values, strict=True))
    best = max(by_iteration, key=by_iteration.get)
    assert record.result["best_iteration"] == best
    assert record.result["best_value"] == by_iteration[best]
    assert record.result["best_metric"] == "dice_class_1"
    assert record.artifact(SERIES_FIGURE) == b"figure of [1, 2]"
    assert series.figures[-1][1:] == (["cell_er"], ("dice_class_1", best))


def test_scores_are_those_of_the_labels(series):
    series.predict()
    found = series.store.get(1).metrics["dice_class_1_ds_0"].values
    begin = (12 - 10, -18 + 20, 3)
    labels = np.asarray(zarr.open(str(series.container), mode="r")["volumes/labels/er"])
    labels = labels[tuple(slice(at, at + size) for at, size in zip(begin, (25, 30, 28), strict=True))]
    for iteration, score in zip((1, 2), found, strict=True):
        predicted = series.stored(1, iteration) > 0.5
        expected = 2 * (predicted & (labels == 1)).sum() / (predicted.sum() + (labels == 1).sum())
        assert math.isclose(score, expected, rel_tol=1e-6)


def test_means_are_over_the_regions_with_labels(series):
    entries = {
        "first": series.laboratory.entry(labels={"volumes/labels/er": 1}),
        "second": series.laboratory.entry(labels={"volumes/labels/er": 1}, offset=[12, -18, 5], shape=[25, 30, 31]),
        "unlabelled": series.laboratory.entry(shape=[9, 9, 9]),
    }
    series.predict(entries=entries)
    metrics = series.store.get(1).metrics
    assert "dice_class_1_ds_2" not in metrics
    each = [metrics[f"dice_class_1_ds_{index}"].values[0] for index in (0, 1)]
    assert math.isclose(metrics["dice_class_1"].values[0], np.mean(each))
    assert (series.folder(1, 1) / "unlabelled" / "segmentation").is_dir()


@pytest.mark.parametrize(("keep", "kept"), [("all", {1, 2}), ("none", set())])
def test_what_is_kept_stays_and_the_rest_is_deleted(series, keep, kept):
    series.predict(f"series.keep={keep}")
    assert {iteration for iteration in (1, 2) if series.folder(1, iteration).exists()} == kept
    result = series.store.get(1).result
    assert set(result["iterations_kept"]) == kept
    assert list(result["outputs"].values()) == [str(series.folder(1, result["best_iteration"]))][: len(kept)]
    made = f"{series.folder(1, 2)}/prob_maps/class_1"
    assert written_by(made, series.store.summaries()) == "predictions/1"
    assert steps(series.store.get(1)) == (1, 2)


def test_only_the_best_is_kept(series):
    finished = series.predict("series.keep=best")
    assert [one for one in (1, 2) if series.folder(1, one).exists()] == [finished.best.iteration]
    assert [entry.iteration for entry in finished.kept] == [finished.best.iteration]


def test_without_labels_it_is_predicted_and_not_measured(series):
    entries = {"cell_er": series.laboratory.entry()}
    finished = series.predict(entries=entries)
    assert finished.best is None
    assert series.store.get(1).metrics == {}
    assert series.folder(1, 1).is_dir()
    assert series.figures == []
    with pytest.raises(
        ConfigError, match=r"series.keep is best, but nothing can be measured, for no entry of .* names labels"
    ):
        series.predict("series.keep=best", entries=entries)
    assert series.store.ids() == [1]


def test_the_same_again_is_already_done_unless_asked_for_anew(series):
    series.predict()
    again = series.predict()
    assert (again.run_id, again.predicted, len(again.entries)) == (1, 0, 2)
    assert series.store.ids() == [1]
    assert series.predict(anew=True).run_id == 2
    assert series.predict("prediction.output_dtype=uint8").run_id == 3


def test_checkpoints_that_came_since_go_into_the_same_run(series):
    series.predict("series.keep=best")
    series.register(3)
    finished = series.predict("series.keep=best")
    assert (finished.run_id, finished.predicted) == (1, 1)
    record = series.store.get(1)
    assert steps(record) == (1, 2, 3)
    assert record.status == "COMPLETED"
    assert len(record.info["sessions"]) == 2
    assert record.artifact(SERIES_FIGURE) == b"figure of [1, 2, 3]"


@pytest.mark.parametrize("at", [1, 7, 18])
@pytest.mark.parametrize("keep", ["all", "none"])
def test_interrupted_it_goes_on_in_the_same_run(series, stopping, predicted, at, keep):
    entries = {"cell_er": series.laboratory.wide_entry((40, 40, 80))}  # 12 blocks of an iteration
    updates = (f"series.keep={keep}", "prediction.input_size_voxels=[52,52,52]")
    with stopping(at):
        series.predict(*updates, entries=entries)
    assert series.store.get(1).status == "INTERRUPTED"
    predicted.clear()
    assert series.predict(*updates, entries=entries).run_id == 1
    done = at - 1  # of which the last few may not have been written yet
    assert 24 - done <= len(predicted) <= 24 - max(0, done - 4)
    resumed = series.store.get(1)
    series.predict(*updates, entries=entries, anew=True)
    undisturbed = series.store.get(2)
    for name in ("dice_class_1", "jaccard_class_1_ds_0"):
        assert resumed.metrics[name].steps == undisturbed.metrics[name].steps == (1, 2)
        assert resumed.metrics[name].values == undisturbed.metrics[name].values
    if keep == "all":
        for iteration in (1, 2):
            np.testing.assert_array_equal(series.stored(1, iteration), series.stored(2, iteration))
    assert resumed.result["best_value"] == undisturbed.result["best_value"]


def test_the_range_is_refused_before_anything_is_written(series):
    for updates, sentence in (
        (["series.start=7"], "has no checkpoint from iteration 7 to 2"),
        (
            ["series.start=2", "series.stop=6", "series.step=2"],
            "no checkpoint of iteration 4, 6, .* it has 1, 2; leave",
        ),
        (["series.start=0", "series.step=1"], r"has no checkpoint of iteration 0, which series.step=1 asks for: it"),
        (["series.metric=dice"], r"series.metric is 'dice', which is no score of 2 classes and 1 region"),
        (["series.checkpoint_dir=/nowhere"], "There is no folder /nowhere"),
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
    assert "not numbers" in record.result["problems"]["3"]
    assert not series.folder(1, 3).exists()
    with pytest.raises(DivergedError, match="not numbers"):
        series.predict("series.start=3", "series.stop=3")
    assert series.store.get(2).status == "FAILED"


def test_a_series_that_goes_on_elsewhere_is_not_started_again(series, stopping, monkeypatch):
    with stopping(2):
        series.predict()
    monkeypatch.setattr("incasem_like.tracking.records.honest_status", lambda *told: "RUNNING")
    with pytest.raises(InputError, match="still goes on"):
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
    assert "run 1 goes on, 1 of them are left" in "\n".join(series.examine().lines)
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
