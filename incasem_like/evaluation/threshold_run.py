"""The evaluation run: opens the volumes of a request, sweeps the thresholds and tracks the result as a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from incasem_like.errors import InputError
from incasem_like.evaluation.blocks import ARTIFACT, VoxelParts, intervals, pack
from incasem_like.evaluation.evaluate import Evaluation, prepare_evaluation
from incasem_like.evaluation.seen import OpenStore, Policy, check_seen
from incasem_like.evaluation.thresholds import METRICS, threshold_range
from incasem_like.evaluation.voxel_report import report_text, report_thresholds, voxel_report
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Volume, open_volume
from incasem_like.volumes.chunk_files import digest

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

SCORES = ("jaccard", "dice", "precision", "recall")


@dataclass(frozen=True, kw_only=True)
class ThresholdEvaluation:
    """Evaluation request: the tracked configuration of an evaluation run.

    Attributes:
        labels: Address of instance ids or classes.
        prediction_probas: Address of one class's probabilities.
        mask: Address of a mask, or None; ``metric_mask`` likewise. A voxel counts where both are non-zero.
        metric: Metric that determines the best threshold, one of ``METRICS``.
        threshold_start: First threshold; ``threshold_stop`` is the last and ``threshold_step`` the step.
        roi_padding: Voxels left out at each side of the prediction: one number, or three (z, y, x).
        label_class: The class in ``labels`` to compare with; None takes any non-zero id.
        intersect: Evaluate only the intersection of all volumes, instead of raising an error when one lacks a part.
        seen: What to do with voxels that the model has seen, see ``evaluation.seen``.
        report: Make a report with precision, recall and ROC over all thresholds, see ``evaluation.voxel_report``.
    """

    labels: str
    prediction_probas: str
    mask: str | None = None
    metric_mask: str | None = None
    metric: str = "jaccard"
    threshold_start: float = 0.5
    threshold_stop: float = 0.5
    threshold_step: float = 0.1
    roi_padding: tuple[int, ...] = (0,)
    label_class: int | None = None
    intersect: bool = False
    seen: Policy = "refuse"
    report: bool = False

    def prepare(self) -> tuple[tuple[float, ...], Evaluation]:
        """Open and check the volumes before anything is counted or tracked."""
        thresholds = threshold_range(self.threshold_start, self.threshold_stop, self.threshold_step)
        if self.metric not in METRICS:
            raise InputError(f"Unknown metric '{self.metric}': choose one of {', '.join(METRICS)}.")
        if len(self.roi_padding) not in (1, 3):
            raise InputError(f"--roi_padding takes one number or three (z y x), but got {len(self.roi_padding)}.")
        z, y, x = self.roi_padding * (3 // len(self.roi_padding))
        evaluation = prepare_evaluation(
            open_volume(self.prediction_probas),
            open_volume(self.labels),
            [open_volume(address) for address in (self.mask, self.metric_mask) if address],
            roi_padding=(z, y, x),
            label_class=self.label_class,
            intersect=self.intersect,
        )
        return thresholds, evaluation


def evaluate_as_run(
    request: ThresholdEvaluation,
    *,
    store: RunStore | None,
    open_store: OpenStore | None = None,
    draw: Callable[[Mapping[str, Any], str, str], Mapping[str, bytes]] | None = None,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate block by block, and track request, inputs, scores and result as a run.

    The counts of finished blocks survive an interruption; the same request resumes from them, as another run.

    Args:
        request: The evaluation request.
        store: Run store, of kind ``evaluations``; None does not track the run.
        open_store: Opens the stores in which the lineage of the prediction is looked up.
        draw: Draws the figures of a report, by name, given the report and the addresses of prediction and labels.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``{jaccard|dice|precision|recall: {threshold: value}}`` with None where undefined, ``counts``, ``best``,
        ``voxels``, the ``roi``, what the model has ``seen``, ``intervals`` at the best threshold, the
        ``prediction_run_id``, None where the prediction does not record one, and the
        ``run_id`` of this evaluation, 0 for one that is not tracked.
    """
    thresholds, evaluation = request.prepare()
    others = [evaluation.labels, *evaluation.masks]
    seen = check_seen(evaluation.prediction, others, evaluation.roi, open_store, request.seen)
    evaluation = replace(evaluation, left_out=seen.left_out)
    counted = thresholds
    if request.report:
        counted = tuple(sorted({*thresholds, *report_thresholds(evaluation.prediction.dtype)}))
    task = evaluation.task(counted)

    def measure(run: Run) -> dict[str, Any]:
        run.inputs([volume.as_input() for volume in (evaluation.prediction, evaluation.labels, *evaluation.masks)])
        made_by = prediction_run_id(evaluation.prediction)
        run.set_info("prediction_run_id", made_by)
        whole, counts = evaluation.sweep(task, num_workers=num_workers, workers=workers)
        sweep = whole.subset(thresholds)
        result = sweep.result(request.metric)
        for step, threshold in enumerate(result["dice"]):  # curves over the sweep
            run.log_scalar("threshold", float(threshold), step)
            for name in SCORES:
                if (value := result[name][threshold]) is not None:
                    run.log_scalar(name, value, step)
        best = sweep.best(request.metric)
        parts = voxel_parts(counts, counted.index(thresholds[0 if best is None else best.index]))
        run.add_artifact(pack({"numbers": parts.numbers, "counts": parts.counts}), ARTIFACT)
        about = [volume.as_input() for volume in others]
        compared = {key: value for key, value in task.parameters.items() if key != "thresholds"}
        result["evaluated"] = digest([about, compared])
        if request.report:
            result["report"] = voxel_report(whole)
            addresses = [str(volume.address) for volume in (evaluation.prediction, *others)]
            run.add_artifact(report_text(result["report"], addresses), "report.txt")
            for name, picture in (draw(result["report"], *addresses[:2]) if draw is not None else {}).items():
                run.add_artifact(picture, name)
        result["intervals"], result["seen"] = intervals(parts), seen.record()
        region = {"offset": list(map(int, evaluation.roi.begin)), "shape": list(map(int, evaluation.roi.shape))}
        return {**result, "roi": region, "prediction_run_id": made_by, "run_id": run.id}

    result = run_experiment(name="evaluate", config=asdict(request), main=measure, store=store, **options)
    task.forget()  # only after the run has the result
    return result


def voxel_parts(counts: npt.NDArray[np.int64], index: int) -> VoxelParts:
    """Return the right and wrong voxels of each part that has valid voxels, at one threshold.

    Args:
        counts: (parts, 2, n + 1), labelled and other voxels by the number of thresholds that they reach.
        index: Of the threshold.
    """
    positives, negatives = counts[:, 0], counts[:, 1]
    tp, fp = positives[:, index + 1 :].sum(axis=1), negatives[:, index + 1 :].sum(axis=1)
    numbers = np.flatnonzero(counts.sum(axis=(1, 2)))
    return VoxelParts(numbers, np.stack([tp, fp, positives.sum(axis=1) - tp], axis=1)[numbers])


def prediction_run_id(prediction: Volume) -> int | str | None:
    """Return the id of the run that made a prediction, from its provenance, or None."""
    provenance = prediction.provenance
    run_id = provenance.get("run_id") if isinstance(provenance, Mapping) else None
    return run_id if isinstance(run_id, int | str) else None


def result_table(result: Mapping[str, Any]) -> Table:
    """Return a result as a table with a row per threshold, the best one marked and in bold."""
    best = (result["best"] or {}).get("threshold")
    table = Table("threshold", *SCORES, "")
    for threshold in result["dice"]:
        is_best = best is not None and float(threshold) == best
        values = [result[name][threshold] for name in SCORES]
        cells = ["undefined" if value is None else f"{value:.4f}" for value in values]
        table.add_row(threshold, *cells, "best" if is_best else "", style="bold" if is_best else None)
    return table


def best_sentence(result: Mapping[str, Any]) -> str:
    """Return a sentence with the best threshold and its score."""
    best = result["best"]
    if not result["voxels"]:
        return "Nothing to score: mask and metric mask leave no voxel."
    if best is None:
        return (
            f"Nothing to score over {result['voxels']} voxels: the object is missing in the labels or the prediction."
        )
    name = "precision + recall" if best["metric"] == "precision_recall" else best["metric"]
    bounds = (result.get("intervals") or {}).get(best["metric"])
    interval = f" (95 % interval {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
    at = f"at threshold {best['threshold']:g}, over {result['voxels']} voxels"
    held_out = (result.get("seen") or {}).get("held_out", "unknown")
    mark = "" if held_out == "yes" else f" Held out: {held_out}."
    return f"Best {name}: {best['value']:.4f}{interval} {at}.{mark}"
