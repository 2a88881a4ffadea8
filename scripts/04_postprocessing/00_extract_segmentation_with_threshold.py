"""Segment a probability map by a threshold, block by block; the result is 1 where p >= threshold and mask is not 0."""

import argparse

from incasem_like.commands.stage import add_run_flags, read_flags, report_run, run_options
from incasem_like.terminal import at_least, report_written, run_script, script_parser, shell_command

parser = script_parser("Segment a probability map: 1 where p >= threshold and the mask is not 0, else 0 (uint8).")
add = parser.add_argument
add("--prediction_filename", required=True, metavar="ZARR", help="container of the probability map")
add("-d", "--dataset", required=True, metavar="DS", help="probability map of one class, float 0-1 or uint8 0-255")
add("--mask_filename", metavar="ZARR", help="container of a mask (default: the prediction's, if --mask is given)")
add("-m", "--mask", metavar="DS", help="mask dataset (default: volumes/mask, if --mask_filename is given)")
add("-o", "--out_dataset", required=True, metavar="DS", help="the segmentation, in the prediction's container")
add("-c", "--chunk_shape", type=at_least(1), nargs=3, default=[128, 128, 128], help="z y x in voxels")
add("-t", "--threshold", type=float, required=True, help="probability from 0 to 1")
add_run_flags(parser, "replace an existing segmentation")


def main(arguments: argparse.Namespace) -> None:
    """Segment, and print what was written."""
    from incasem_like.segmentation.threshold import ThresholdSegmentation, segment_as_run

    request, options = read_flags(ThresholdSegmentation, arguments), run_options(arguments, "segmentations")
    result = segment_as_run(request, **options)
    if result["run_id"] is None:
        print(f"Already complete: {result['address']}")
        return
    script = "scripts/04_postprocessing/20_convert_zarr_to_image_sequence.py"
    where = ("-f", request.prediction_filename, "-d", request.out_dataset, "-o", "SECTIONS")
    following = shell_command("python", script, *where)
    report_written(f"segmentation ({result['blocks']} blocks)", result["address"], following)
    report_run(result, options)


if __name__ == "__main__":
    run_script(main, parser)
