"""Compare instance segmentations with ground truth: VOI, Rand, CREMI score, objects; stored as a run."""

import argparse

from incasem_like.commands.options import add_record_flags, record_options
from incasem_like.commands.tables import Column, print_table
from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = script_parser("Compare instance segmentations with ground-truth labels; voxels with label 0 are ignored.")
    add = parser.add_argument
    add("-l", "--labels", required=True, metavar="ZARR/DS", help="ground truth: instance ids, 0 = not labelled")
    add("-p", "--segmentations", required=True, nargs="+", metavar="ZARR/DS", help="segmentations to compare with it")
    add("--mask", metavar="ZARR/DS", help="only voxels where it is not 0 are counted")
    add("--both_labelled", action="store_true", help="also ignore voxels that a segmentation does not label")
    add("--offset", type=int, nargs=3, metavar=("Z", "Y", "X"), help="first voxel of the ROI, absolute")
    add("--shape", type=int, nargs=3, metavar=("Z", "Y", "X"), help="shape of the ROI in voxels")
    add("--intersect", action="store_true", help="evaluate the ROI that all volumes cover instead of refusing")
    add_worker_flags(parser)
    add_record_flags(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the table, the largest errors and where the run is."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.evaluation.instance_run import (
        InstanceEvaluation,
        error_lines,
        evaluate_instances_as_run,
        instance_table,
    )

    given = {name: getattr(arguments, name) for name in InstanceEvaluation.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    request = InstanceEvaluation(**{**given, **lists})
    record = record_options(arguments, "evaluations")
    options = {"num_workers": arguments.num_workers, "workers": given_workers(arguments)}
    result = evaluate_instances_as_run(request, **record, **options)
    titles, *rows = instance_table(result)
    print_table([Column(titles[0]), *(Column(title, right=True) for title in titles[1:])], rows)
    best = result["scores"][result["best"]]
    print("\n".join(error_lines(best)))
    print(f"Lowest VOI: {best['voi']:.4f} ({best['voi_split']:.4f} + {best['voi_merge']:.4f}) of {result['best']}")
    if record["store"] is not None:
        report_written(f"evaluation run {result['run_id']}", record["store"].description)


if __name__ == "__main__":
    run_script(main, make_parser())
