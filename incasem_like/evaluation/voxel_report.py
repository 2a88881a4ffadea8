"""The report on a probability map: accuracy, mean IoU, precision and recall over thresholds, ROC curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.evaluation.thresholds import ThresholdSweep, plain
from incasem_like.evaluation.voxel import jaccard, precision, ratio, recall

LISTED = tuple(round(0.05 * step, 2) for step in range(21))
DECIDED = 0.5


def report_thresholds(dtype: npt.DTypeLike) -> tuple[float, ...]:
    """Return the thresholds that a report needs: 0 to 1 in steps of 0.05, and those of the ROC curve.

    The latter are all values that uint8 can have, so that the curve is exact; else 0 to 1 in steps of 0.005.
    """
    exact = np.dtype(dtype) == np.uint8
    curve = [level / 255 for level in range(256)] if exact else [round(0.005 * step, 3) for step in range(201)]
    return tuple(sorted({*LISTED, *curve}))


def roc_curve(sweep: ThresholdSweep) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the false and the true positive rate, ascending, from (0, 0) to (1, 1)."""
    false, true = ratio(sweep.fp, sweep.fp + sweep.tn), recall(sweep.tp, sweep.fn)
    return np.concatenate([[0.0], false[::-1], [1.0]]), np.concatenate([[0.0], true[::-1], [1.0]])


def voxel_report(sweep: ThresholdSweep) -> dict[str, Any]:
    """Return the figures of a report, None where undefined.

    Args:
        sweep: Counts at ``report_thresholds``, and maybe more.

    Returns:
        ``accuracy`` and ``mean_iou`` (of background and object) at 0.5, ``auc``, ``precision`` and ``recall`` at each
        of the ``thresholds`` 0, 0.05, ... 1, and ``roc``: false and true positive rates.
    """
    at = {threshold: index for index, threshold in enumerate(sweep.thresholds)}
    chosen = [at[threshold] for threshold in LISTED]
    tp, fp, fn, tn = (int(counts[at[DECIDED]]) for counts in (sweep.tp, sweep.fp, sweep.fn, sweep.tn))
    false, true = roc_curve(sweep)
    ious = jaccard(np.array([tp, tn]), np.array([fp, fn]), np.array([fn, fp]))
    return {
        "accuracy": plain((tp + tn) / sweep.total if sweep.total else np.nan),
        "mean_iou": plain(float(np.mean(ious))),
        "auc": plain(float(np.trapezoid(true, false))),
        "thresholds": list(LISTED),
        "precision": [plain(value) for value in precision(sweep.tp, sweep.fp)[chosen]],
        "recall": [plain(value) for value in recall(sweep.tp, sweep.fn)[chosen]],
        "roc": [[plain(value) for value in values] for values in (false, true)],
        "voxels": sweep.total,
    }


def report_text(report: Mapping[str, Any], inputs: Sequence[str]) -> str:
    """Return a report as text.

    Args:
        report: Result of ``voxel_report``.
        inputs: Addresses of the prediction, the labels and the masks.
    """

    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    names = ["prediction", "labels", *["mask"] * (len(inputs) - 2)]
    lines = [f"{name}: {address}" for name, address in zip(names, inputs, strict=True)]
    lines += [
        f"voxels: {report['voxels']}",
        f"accuracy at 0.5: {shown(report['accuracy'])}",
        f"mean IoU at 0.5: {shown(report['mean_iou'])}",
        f"area under the ROC curve: {shown(report['auc'])}",
        "",
        "threshold  precision  recall",
    ]
    rows = zip(report["thresholds"], report["precision"], report["recall"], strict=True)
    lines += [f"{threshold:9.2f}  {shown(one):>9}  {shown(other):>6}" for threshold, one, other in rows]
    return "\n".join(lines) + "\n"
