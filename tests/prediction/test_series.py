"""Series of predictions: one run, a score for each iteration, what is kept, interrupted and gone on with."""

import math

import numpy as np
import pytest
import zarr
from prediction.series_lab import TILES, steps

from incasem_like.errors import ConfigError
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.tracking import open_store
from incasem_like.tracking.lineage import written_by


def test_each_checkpoint_predicts_what_it_predicts_alone(series):
    finished = series.predict(run_name="both")
    assert (finished.run_id, finished.predicted) == (1, 2)
    for iteration in (1, 2):
        config = series.laboratory.config(None, TILES, f"prediction.checkpoint={iteration}")
        alone = series.laboratory.predict(config).locations["cell_er"]
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
        ConfigError, match=r"series.keep is best, but nothing can be measured, since no entry of .* names labels"
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


@pytest.mark.mongo
def test_in_a_database_it_is_one_run_too_interrupted_or_not(series, stopping, fresh_mongo_url):
    series.store = open_store(fresh_mongo_url, "predictions", series.runs)
    with stopping(2):
        series.predict("series.keep=best")
    assert series.store.get(1).status == "INTERRUPTED"
    finished = series.predict("series.keep=best")
    assert (finished.run_id, finished.predicted) == (1, 1)
    record = series.store.get(1)
    assert (record.status, steps(record)) == ("COMPLETED", (1, 2))
    assert record.artifact(SERIES_FIGURE) == b"figure of [1, 2]"
    assert [entry["iteration"] for entry in record.info["series"]["entries"]] == [1, 2]
    assert series.predict("series.keep=best").predicted == 0
    assert series.store.ids() == [1]
