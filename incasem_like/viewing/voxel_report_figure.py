"""The figures of a report on a probability map: precision and recall, the ROC curve, and examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from incasem_like.viewing.error_figure import raw_of
from incasem_like.viewing.figures import new_figure, png
from incasem_like.volumes import Roi, open_volume
from incasem_like.volumes.values import probability_scale

SECTIONS, MOST_VOXELS = 6, 512


def draw_report(report: Mapping[str, Any], prediction: str, labels: str) -> dict[str, bytes]:
    """Draw ``precision_recall.png`` and ``examples.png``.

    Args:
        report: Result of ``evaluation.voxel_report``.
        prediction, labels: Addresses.
    """
    return {"precision_recall.png": _curves(report), "examples.png": _examples(prediction, labels)}


def _curves(report: Mapping[str, Any]) -> bytes:
    figure = new_figure(width=9, height=4.2)
    left, right = figure.subplots(1, 2)
    recall, precision = (np.array(report[name], float) for name in ("recall", "precision"))
    left.plot(recall, precision, marker=".")
    for threshold, x, y in list(zip(report["thresholds"], recall, precision, strict=True))[::4]:
        if np.isfinite([x, y]).all():
            left.annotate(f"{threshold:g}", (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    left.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    auc = report["auc"]
    right.plot(*(np.array(values, float) for values in report["roc"]))
    right.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    right.set(xlabel="false positive rate", ylabel="true positive rate")
    right.set_title("" if auc is None else f"area {auc:.4f}", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return png(figure)


def _examples(prediction: str, labels: str) -> bytes:
    """Draw evenly spaced sections: ground truth red, prediction of at least 0.5 green, both yellow."""
    predicted, truth = open_volume(prediction), open_volume(labels)
    raw, roi = raw_of(predicted), predicted.roi
    shape = [1, *(min(MOST_VOXELS, int(edge)) for edge in roi.shape[1:])]
    corner = [first + (int(edge) - size) // 2 for first, edge, size in zip(roi.begin, roi.shape, shape, strict=True)]
    figure = new_figure(width=9.6, height=6.4)
    sections = np.unique(np.linspace(roi.begin[0], roi.end[0] - 1, SECTIONS).astype(int))
    grid = figure.subplots(2, 3).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, z in zip(grid, sections, strict=False):
        part = Roi((int(z), *corner[1:]), shape)
        image = np.zeros((*shape[1:], 3))
        if raw is not None:
            values = raw.read(part, outside="constant")[0].astype(float)
            image += (values / max(1.0, float(values.max())))[..., None]
        shown = [
            truth.read(part, outside="constant")[0] > 0,
            predicted.read(part)[0] >= 0.5 * probability_scale(predicted),
        ]
        for channel, mask in enumerate(shown):
            image[..., channel] = np.where(mask, 0.5 * image[..., channel] + 0.5, image[..., channel])
        axes.imshow(image, interpolation="nearest")
        axes.set_title(f"z {z}", fontsize=9)
    return png(figure)
