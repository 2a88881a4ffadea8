"""Compare segmentations with the prediction they were made of, without ground truth; stored as a run."""

import argparse

from incasem_like.commands.options import add_record_flags, record_options
from incasem_like.commands.tables import Column, print_table
from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
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
    add("--block_shape", type=int, nargs=3, default=[64, 128, 128], metavar=("Z", "Y", "X"), help="in voxels")
    add("--overwrite", action="store_true", help="replace outputs that were made with other options")
    add_worker_flags(parser)
    add_record_flags(parser)
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Compare, and print a row for each segmentation."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.evaluation.self_consistency import SelfConsistency, self_consistency_as_run

    given = {name: getattr(arguments, name) for name in SelfConsistency.__dataclass_fields__}
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    record = record_options(arguments, "evaluations")
    result = self_consistency_as_run(
        SelfConsistency(**{**given, **lists}),
        overwrite=arguments.overwrite,
        num_workers=arguments.num_workers,
        workers=given_workers(arguments),
        **record,
    )
    rows = [
        [address.rpartition("/")[2], f"{found['error']:.4f}", str(found["objects"]), str(found["excluded_objects"])]
        for address, found in result["scores"].items()
    ]
    titles = ("error", "objects", "not trusted")
    print_table([Column("segmentation"), *(Column(title, right=True) for title in titles)], rows)
    print(f"Lowest error: {result['best']}")
    report_written("error map, mask and weights", result["scores"][result["best"]]["group"])
    if record["store"] is not None:
        report_written(f"evaluation run {result['run_id']}", record["store"].description)


if __name__ == "__main__":
    run_script(main, make_parser())
