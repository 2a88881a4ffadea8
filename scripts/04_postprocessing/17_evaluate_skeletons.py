"""Score instance segmentations by skeletons and synaptic sites: VOI, expected run length, edits; stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, read_flags, report_run, run_options
from incasem_like.commands.tables import Column, print_table
from incasem_like.terminal import run_script, script_parser

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
add_run_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Evaluate, and print the table and where the run is."""
    from incasem_like.evaluation.skeleton_run import SkeletonEvaluation, evaluate_skeletons_as_run, skeleton_table

    options = run_options(arguments, "evaluations", lookups=True)
    result = evaluate_skeletons_as_run(read_flags(SkeletonEvaluation, arguments), **options)
    titles, *rows = skeleton_table(result)
    print_table([Column(titles[0]), *(Column(title, right=True) for title in titles[1:])], rows)
    print(f"{'Fewest edits' if arguments.edits else 'Highest normalised expected run length'}: {result['best']}")
    report_run(result, options)


if __name__ == "__main__":
    run_script(main, parser)
