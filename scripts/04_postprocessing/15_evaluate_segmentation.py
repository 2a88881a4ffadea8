"""Compare instance segmentations with ground truth: VOI, Rand, CREMI score, objects; stored as a run."""

import argparse
from pathlib import Path

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
    add("--name", help="a name for the run")
    add("--runs", metavar="DIR", type=Path, help="folder of the runs (default: training_runs of this repository)")
    add("--mongodb", metavar="URL", help="run store: a MongoDB URL or JSON file instead of files in --runs")
    add("-u", "--unobserved", action="store_true", help="store no run, only print")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the table, the largest errors and where the run is."""
    from rich.console import Console

    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.config import default_runs_directory
    from incasem_like.evaluation.instance_run import (
        InstanceEvaluation,
        error_lines,
        evaluate_instances_as_run,
        instance_table,
    )
    from incasem_like.tracking import open_store
    from incasem_like.tracking.address import as_folder

    given = {name: getattr(arguments, name) for name in InstanceEvaluation.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    request = InstanceEvaluation(**{**given, **lists})
    runs = Path(as_folder(str(arguments.runs or default_runs_directory())))
    store = None if arguments.unobserved else open_store(arguments.mongodb, kind="evaluations", runs_directory=runs)
    options = {"num_workers": arguments.num_workers, "run_name": arguments.name}
    options["workers"] = given_workers(arguments)
    result = evaluate_instances_as_run(request, store=store, **options)
    Console().print(instance_table(result))
    best = result["scores"][result["best"]]
    print("\n".join(error_lines(best)))
    print(f"Lowest VOI: {best['voi']:.4f} ({best['voi_split']:.4f} + {best['voi_merge']:.4f}) of {result['best']}")
    if store is not None:
        report_written(f"evaluation run {result['run_id']}", store.description)


if __name__ == "__main__":
    run_script(main, make_parser())
