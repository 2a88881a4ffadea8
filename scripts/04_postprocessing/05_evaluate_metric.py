"""Compare a probability map with labels at one or many thresholds; the result is printed and stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, read_flags, report_run, run_options
from incasem_like.terminal import at_least, run_script, script_parser

parser = script_parser("Compare a probability map with labels, at one threshold or many.")
add = parser.add_argument
metrics = ("jaccard", "dice", "precision_recall")
add("--metric", choices=metrics, default="jaccard", help="decides the best threshold; all are shown")
add("-l", "--labels", required=True, metavar="ZARR/DS", help="labels; every non-zero id counts as the object")
add("-p", "--prediction_probas", required=True, metavar="ZARR/DS", help="one class, float 0-1 or uint8 0-255")
add("--mask", metavar="ZARR/DS", help="only voxels where it is not 0 are counted")
add("--metric_mask", metavar="ZARR/DS", help="second mask, such as an exclusion zone around boundaries")
add("--roi_padding", type=int, nargs="+", default=[0], help="voxels excluded at each side: one number, or z y x")
add("--threshold_start", type=float, default=0.5, help="first threshold, a probability; p >= threshold counts")
add("--threshold_stop", type=float, default=0.5, help="last threshold, included")
add("--threshold_step", type=float, default=0.1, help="distance between thresholds, above 1e-5")
add("--label_class", type=at_least(0), help="compare with this class of a class map instead of all non-zero ids")
add("--intersect", action="store_true", help="evaluate the ROI that all volumes cover instead of refusing")
add("--report", action="store_true", help="also precision, recall and ROC over thresholds 0 to 1, with figures")
add("--seen", choices=("refuse", "leave_out", "score"), default="refuse", help="what to do if the model was "
    "trained or validated on voxels to evaluate: refuse, leave them out, or score all, with a mark; default: "
    "refuse")  # fmt: skip
add_run_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the table and where the run is."""
    from rich.console import Console

    from incasem_like.evaluation.threshold_run import ThresholdEvaluation, best_sentence, evaluate_as_run, result_table
    from incasem_like.viewing.voxel_report_figure import draw_report

    options = run_options(arguments, "evaluations", lookups=True)
    result = evaluate_as_run(read_flags(ThresholdEvaluation, arguments), draw=draw_report, **options)
    Console().print(result_table(result))
    print(best_sentence(result))
    if arguments.report and (auc := result["report"]["auc"]) is not None:
        print(f"Area under the ROC curve: {auc:.4f}")
    report_run(result, options)


if __name__ == "__main__":
    run_script(main, parser)
