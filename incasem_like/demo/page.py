"""The report page of the demo, made from its tracked runs and its volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from incasem_like.demo import plan
from incasem_like.demo.plan import DemoPlaces
from incasem_like.demo.stages import StageRunner
from incasem_like.prediction.outputs import prediction_group
from incasem_like.terminal import duration
from incasem_like.tracking import RunRecord
from incasem_like.viewing.report import Command, Report, Table, write_report
from incasem_like.viewing.run_report import report_of_run, slices_of_volumes
from incasem_like.volumes import open_volume


def write_page(
    places: DemoPlaces,
    training: RunRecord,
    prediction: RunRecord,
    evaluation: RunRecord,
    runner: StageRunner,
    result: dict[str, Any],
) -> Path:
    """Write ``report.html`` into the demo's folder and return its path."""
    container = places.container("test")
    predicted = prediction_group(training.id, prediction.id)
    slices = slices_of_volumes(
        open_volume(container, plan.EQUALIZED),
        {
            "truth": open_volume(container, plan.LABELS),
            "prediction": open_volume(container, f"{predicted}/segmentation"),
        },
    )
    names, scores = ("dice", "jaccard", "precision", "recall"), evaluation.result
    rows = [
        [threshold, *("undefined" if (v := scores[name][threshold]) is None else f"{v:.4f}" for name in names)]
        for threshold in scores["dice"]
    ]
    of_training = report_of_run(training)
    report = Report(
        title="The demo: columns of a synthetic optic lobe",
        summary=(
            f"A network trained for {training.config['training']['iterations']} iterations on CPU finds the columns of "
            f"a volume it has never seen with a dice of {result['dice']:.3f}. The scripts wrote everything below."
        ),
        facts=[
            ("dice on the unseen volume", f"{result['dice']:.3f}"),
            ("whole time", duration(result["seconds"]["total"])),
            ("training run", str(training.id)),
            ("prediction run", str(prediction.id)),
            *[fact for fact in of_training.facts if fact[0] in ("machine", "commit", "last checkpoint")],
        ],
        pictures=[slices, *of_training.pictures],
        tables=[
            Table("Scores by threshold", ("threshold", *names), rows),
            Table("Time by stage", ("stage", "seconds"), [(k, f"{v:.1f}") for k, v in result["seconds"].items()]),
        ],
        commands=[Command(run.command, run.seconds) for run in runner.done],
        configuration=of_training.configuration,
        links=[
            ("checkpoints", str(places.runs / f"models/{training.id:04d}")),
            ("TensorBoard", f"tensorboard --logdir {places.runs / 'tensorboard'}"),
            ("tracked runs", str(places.runs / "tracking")),
            ("prediction", f"{container}/{predicted}"),
        ],
    )
    return write_report(report, places.work / "report.html")
