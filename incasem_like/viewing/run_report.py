"""Contents of the report of a tracked run: metadata, curves and configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from incasem_like.prediction import SERIES_FIGURE
from incasem_like.terminal import duration
from incasem_like.viewing.figures import Curve, curves_figure, ortho_slices_figure
from incasem_like.viewing.planes import busiest_point, plane_aspects, read_planes
from incasem_like.viewing.report import Picture, Report

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord
    from incasem_like.volumes import Volume

LOSS = re.compile(r"^loss_(train|val)")
DICE = re.compile(r"^dice_class_[1-9]\d*(_train|_validation_ds_\d+)?$")


def curves_of_run(record: RunRecord) -> Picture | None:
    """Draw the run's losses and foreground dice over its iterations; None when it logged neither."""
    panels = {}
    for title, pattern in (("loss", LOSS), ("dice of the foreground", DICE)):
        curves = [Curve(name, m.steps, m.values) for name, m in sorted(record.metrics.items()) if pattern.match(name)]
        if curves:
            panels[title] = curves
    if not panels:
        return None
    return Picture("Training", "Losses and dice as the run logged them.", curves_figure(panels))


def scores_of_series(record: RunRecord) -> Picture | None:
    """Return the figure stored by a series of predictions; None for any other run."""
    if SERIES_FIGURE not in record.artifacts:
        return None
    said = "Scores against the iteration of the checkpoint"
    best = record.result.get("best_iteration") if isinstance(record.result, dict) else None
    caption = f"{said}; iteration {best} is the best by {record.result['best_metric']}." if best else f"{said}."
    return Picture("Series", caption, record.artifact(SERIES_FIGURE))


# The figures that evaluations and searches of parameters store, with heading and caption.
EVALUATION_FIGURES = {
    "search.png": ("Search", "The score of each choice of parameters by threshold, and its splits against its merges."),
    "precision_recall.png": ("Precision and recall", "At thresholds from 0 to 1, and the ROC curve."),
    "examples.png": ("Examples", "Sections with ground truth (red) and prediction (green)."),
    "errors.png": ("Worst errors", "The largest splits and merges; objects that take part are coloured."),
}


def pictures_of_evaluation(record: RunRecord) -> list[Picture]:
    """Return the figures that an evaluation, or a search of segmentation parameters, stored; none for other runs."""
    return [
        Picture(*about, record.artifact(name)) for name, about in EVALUATION_FIGURES.items() if name in record.artifacts
    ]


def slices_of_volumes(raw: Volume, truth: Volume | None, prediction: Volume) -> Picture:
    """Draw the three planes through the point with most foreground of the prediction: raw, ground truth, prediction.

    Args:
        raw: Grey values.
        truth: Labels, every nonzero voxel is foreground; None without ground truth.
        prediction: A segmentation, every nonzero voxel is foreground.
    """
    roi = prediction.roi.intersect(raw.roi)
    overlays: dict[str, Volume] = {"prediction": prediction}
    if truth is not None:
        roi = roi.intersect(truth.roi)
        overlays = {"truth": truth, **overlays}
    centre = busiest_point(truth or prediction, roi)
    figure = ortho_slices_figure(
        read_planes(raw, roi, centre),
        {title: read_planes(volume, roi, centre) for title, volume in overlays.items()},
        plane_aspects(raw.voxel_size or (1, 1, 1)),
    )
    z, y, x = centre
    return Picture("Slices", f"Planes through voxel z {z}, y {y}, x {x} of {prediction.address}.", figure)


def facts_of_run(record: RunRecord) -> list[tuple[str, str]]:
    """Return the metadata of the run for a methods section: id, state, time, machine, commit, checkpoints."""
    facts = [("run", f"{record.id} ({record.kind})"), ("status", record.status)]
    if record.name:
        facts.append(("name", record.name))
    if record.start_time and record.stop_time:
        facts.append(("took", duration((record.stop_time - record.start_time).total_seconds())))
    if host := record.host.get("hostname"):
        facts.append(("machine", str(host)))
    for repository in record.experiment.get("repositories", [])[:1]:
        facts.append(
            ("commit", str(repository.get("commit", ""))[:10] + (" + changes" if repository.get("dirty") else ""))
        )
    for checkpoint in record.checkpoints[-1:]:
        facts.append(("last checkpoint", f"iteration {checkpoint.iteration}, sha256 {checkpoint.sha256[:12]}"))
    return facts


def report_of_run(record: RunRecord) -> Report:
    """Return the report of any tracked run from its record in the store."""
    import yaml

    curves = scores_of_series(record) or curves_of_run(record)
    pictures = [*([curves] if curves else []), *pictures_of_evaluation(record)]
    return Report(
        title=f"Run {record.id}" + (f": {record.name}" if record.name else ""),
        summary=f"A run of kind {record.kind}, as tracked in {record.store.description}.",
        facts=facts_of_run(record),
        pictures=pictures,
        configuration=yaml.safe_dump(record.config, sort_keys=False),
    )
