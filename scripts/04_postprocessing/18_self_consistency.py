"""Compare segmentations with the prediction they were made of, without ground truth; stored as a run."""

import argparse

from incasem_like.commands.stage import add_run_flags, read_flags, report_run, run_options
from incasem_like.commands.tables import Column, print_table
from incasem_like.terminal import at_least, report_written, run_script, script_parser

parser = script_parser(
    "Compare segmentations with the affinities or descriptors they were made of: error map, mask, weights, objects."
)
add = parser.add_argument
add("-p", "--prediction", required=True, metavar="ZARR/DS", help="predicted affinities or descriptors")
add("-s", "--segmentations", required=True, nargs="+", metavar="ZARR/DS", help="segmentations made of it")
add("--mask", metavar="ZARR/DS", help="only voxels where it is not 0 count")
add("--trusted_share", type=float, default=0.95, help="share of voxels to trust, those of the lowest errors")
add("--largest_error", type=float, help="trust errors up to this one instead, 0 to 1")
add("--largest_object_error", type=float, help="trust no voxel of objects with a larger error, 0 to 1")
add("--weight_by", choices=["voxels", "objects"], default="voxels", help="weight 1 - error: of each voxel, or object")
add("--block_shape", type=at_least(1), nargs=3, default=[64, 128, 128], metavar=("Z", "Y", "X"), help="in voxels")
add_run_flags(parser, "replace outputs that were made with other options")


def main(arguments: argparse.Namespace) -> None:
    """Compare, and print a row for each segmentation."""
    from incasem_like.evaluation.self_consistency import SelfConsistency, self_consistency_as_run

    options = run_options(arguments, "evaluations")
    result = self_consistency_as_run(read_flags(SelfConsistency, arguments), **options)
    rows = [
        [address.rpartition("/")[2], f"{found['error']:.4f}", str(found["objects"]), str(found["excluded_objects"])]
        for address, found in result["scores"].items()
    ]
    titles = ("error", "objects", "not trusted")
    print_table([Column("segmentation"), *(Column(title, right=True) for title in titles)], rows)
    print(f"Lowest error: {result['best']}")
    report_written("error map, mask and weights", result["scores"][result["best"]]["group"])
    report_run(result, options)


if __name__ == "__main__":
    run_script(main, parser)
