"""The report on a probability map against scipy and the definitions."""

import numpy as np
import pytest
from scipy import stats

from incasem_like.evaluation.threshold_run import ThresholdEvaluation, evaluate_as_run
from incasem_like.tracking import open_store
from incasem_like.viewing.run_report import report_of_run
from incasem_like.viewing.voxel_report_figure import draw_report


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_report_has_the_area_under_the_curve_and_precision_and_recall(make_volume, tmp_path, dtype):
    rng = np.random.default_rng(0)
    labels = (rng.random((8, 9, 10)) < 0.4).astype(np.uint32)
    values = np.clip(labels * 0.2 + rng.normal(0.4, 0.2, labels.shape), 0, 1)
    stored = np.rint(values * 255).astype(np.uint8) if dtype == "uint8" else values.astype(np.float32)
    probabilities, truth = make_volume("probs", stored), make_volume("labels", labels)
    request = ThresholdEvaluation(labels=str(truth.address), prediction_probas=str(probabilities.address), report=True)
    store = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs")
    result = evaluate_as_run(request, store=store, draw=draw_report)
    report = result["report"]
    p = stored / (255 if dtype == "uint8" else 1)
    inside, outside = stored[labels > 0].astype(float), stored[labels == 0].astype(float)
    expected = stats.mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))
    assert report["auc"] == pytest.approx(expected, abs=1e-12 if dtype == "uint8" else 2e-3)
    for index, threshold in enumerate(report["thresholds"]):
        chosen = p >= np.float32(threshold) if dtype == "float32" else p >= threshold - 1e-9
        hits = (chosen & (labels > 0)).sum()
        assert report["recall"][index] == pytest.approx(hits / labels.sum())
        assert report["precision"][index] == (pytest.approx(hits / chosen.sum()) if chosen.any() else None)
    half = p >= 0.5
    assert report["accuracy"] == pytest.approx((half == (labels > 0)).mean())
    ious = [(one & other).sum() / (one | other).sum() for one, other in ((half, labels > 0), (~half, labels == 0))]
    assert report["mean_iou"] == pytest.approx(np.mean(ious))
    assert list(result["dice"]) == ["0.5"]
    record = store.get(1)
    text = record.artifact("report.txt").decode()
    assert f"area under the ROC curve: {report['auc']:.4f}" in text
    assert len(text.splitlines()) == 8 + 21
    assert [picture.heading for picture in report_of_run(record).pictures] == ["Precision and recall", "Examples"]
