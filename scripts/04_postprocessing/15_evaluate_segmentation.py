"""Compare instance segmentations with ground truth: VOI, Rand, CREMI score, objects; stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, read_flags, report_run, run_options
from incasem_like.commands.tables import Column, print_table
from incasem_like.terminal import run_script, script_parser

parser = script_parser("Compare instance segmentations with ground-truth labels; voxels with label 0 are ignored.")
add = parser.add_argument
add("-l", "--labels", required=True, nargs="+", metavar="ZARR/DS", help="ground truth: instance ids, 0 = none")
add("-p", "--segmentations", required=True, nargs="+", metavar="ZARR/DS", help="segmentations to compare with it; "
    "with several volumes of labels one for each, whose counts are pooled")  # fmt: skip
add("--mask", nargs="+", default=[], metavar="ZARR/DS", help="only voxels where it is not 0 are counted")
add("--both_labelled", action="store_true", help="also ignore voxels that a segmentation does not label")
add("--offset", type=int, nargs=3, metavar=("Z", "Y", "X"), help="first voxel of the ROI, absolute")
add("--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="shape of the ROI in voxels")
add("--intersect", action="store_true", help="evaluate the ROI that all volumes cover instead of refusing")
add("--seen", choices=("refuse", "leave_out", "score"), default="refuse", help="what to do if the model was "
    "trained, validated or tuned on voxels to evaluate: refuse, leave them out, or score all, with a mark; "
    "default: refuse")  # fmt: skip
add_run_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the table, the largest errors and where the run is."""
    from incasem_like.evaluation.instance_run import (
        InstanceEvaluation,
        best_lines,
        evaluate_instances_as_run,
        instance_table,
    )
    from incasem_like.viewing.error_figure import draw_errors

    options = run_options(arguments, "evaluations", lookups=True)
    result = evaluate_instances_as_run(read_flags(InstanceEvaluation, arguments), draw=draw_errors, **options)
    titles, *rows = instance_table(result)
    print_table([Column(titles[0]), *(Column(title, right=True) for title in titles[1:])], rows)
    print("\n".join(best_lines(result)))
    report_run(result, options)


if __name__ == "__main__":
    run_script(main, parser)
