"""Score instance segmentations by skeletons and synaptic sites: VOI, expected run length, edits; stored as a run."""

import argparse

from incasem_like.commands.options import StoreChoice, add_record_flags, record_options
from incasem_like.commands.tables import Column, print_table
from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = script_parser("Score instance segmentations by skeletons of neurons, and by synaptic sites.")
    add = parser.add_argument
    add("-s", "--skeletons", required=True, nargs="+", metavar="FILE", help=".swc (or a folder of them), .graphml, "
        ".csv, or mongodb://host/database/name")  # fmt: skip
    add("-p", "--segmentations", required=True, nargs="+", metavar="ZARR/DS", help="segmentations to score")
    add("--sites", metavar="CSV", help="synaptic sites: z, y, x, skeleton_id, and optionally kind (pre, post), synapse")
    add("--scale", type=float, default=1.0, help="nm of one unit of the positions; default: 1, positions are in nm")
    add("--node_mask", metavar="NAME", help="MongoDB: only nodes masked in the collection nodes_NAME count")
    add("--node_components", metavar="NAME", help="MongoDB: skeletons are the components in nodes_NAME")
    add("--edits", action="store_true", help="count the cuts and merges that would correct each segmentation")
    add("--graph", metavar="URL", help="graph store of the segmentations, if it is not beside them")
    add("--intersect", action="store_true", help="leave out nodes outside of a segmentation instead of refusing")
    add("--seen", choices=("refuse", "leave_out", "score"), default="refuse", help="what to do if the model was "
        "trained, validated or tuned on the voxels; default: refuse")  # fmt: skip
    add_worker_flags(parser)
    add_record_flags(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the table and where the run is."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.evaluation.skeleton_run import SkeletonEvaluation, evaluate_skeletons_as_run, skeleton_table

    given = {name: getattr(arguments, name) for name in SkeletonEvaluation.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    record = record_options(arguments, "evaluations")
    result = evaluate_skeletons_as_run(
        SkeletonEvaluation(**{**given, **lists}),
        **record,
        open_store=StoreChoice.from_arguments(arguments).open,
        num_workers=arguments.num_workers,
        workers=given_workers(arguments),
    )
    titles, *rows = skeleton_table(result)
    print_table([Column(titles[0]), *(Column(title, right=True) for title in titles[1:])], rows)
    print(f"{'Fewest edits' if arguments.edits else 'Highest normalised expected run length'}: {result['best']}")
    if record["store"] is not None:
        report_written(f"evaluation run {result['run_id']}", record["store"].description)


if __name__ == "__main__":
    run_script(main, make_parser())
