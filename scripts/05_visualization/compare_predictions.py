"""Show predictions of several trainings and iterations side by side, in views that move together."""

import argparse

from incasem_like.commands.view import add_showing_flags, show_from_script
from incasem_like.errors import InputError
from incasem_like.terminal import run_script, script_parser
from incasem_like.viewing.layers import SHADERS

parser = script_parser("Compare predictions in neuroglancer: raw and labels above, a row for each series.")
add = parser.add_argument
add("-f", "--input_file", required=True, metavar="ZARR", help="container of raw and labels")
add("-r", "--raw_dataset", required=True, metavar="DS", help="raw dataset")
add("-l", "--labels_datasets", nargs="*", default=[], metavar="DS", help="datasets of ground truth")
add("-p", "--predictions_file", metavar="ZARR", help="container of the predictions; otherwise --input_file")
add("-s", "--predictions_series", action="append", required=True, metavar="RUN", help="one row of views; repeatable")
add(
    "-i", "--iterations", nargs="+", action="append", required=True, metavar="N", help="columns, for each series or all"
)
add("--layout", choices=("xy", "xz", "yz"), default="xy", help="plane of all views")
add("--shader", choices=SHADERS, default="heatmap", help="how predictions look")
add("--predictions_path_prefix", default="volumes/predictions", metavar="DS", help="group of all series")
add("--predictions_path_suffix", default="prob_maps/class_1", metavar="DS", help="dataset below an iteration's group")
add_showing_flags(parser)


def main(arguments: argparse.Namespace) -> None:
    """Show the grid."""
    from incasem_like.viewing.opening import comparison_scene, prediction_address
    from incasem_like.volumes.opening import locate

    own, series, iterations = arguments, arguments.predictions_series, arguments.iterations
    if len(iterations) not in (1, len(series)):
        raise InputError(f"--iterations is given {len(iterations)} times for {len(series)} series: once, or for each.")
    columns = iterations * len(series) if len(iterations) == 1 else iterations
    container = own.predictions_file or own.input_file
    rows = [
        [
            prediction_address(container, f"{own.predictions_path_prefix}/{run}", number, own.predictions_path_suffix)
            for number in row
        ]
        for run, row in zip(series, columns, strict=True)
    ]
    names = [[f"{run} {number}" for number in row] for run, row in zip(series, columns, strict=True)]
    raw, labels = (
        locate(own.input_file, own.raw_dataset),
        [locate(own.input_file, name) for name in own.labels_datasets],
    )
    show_from_script(comparison_scene(raw, labels, rows, names, own.layout, own.shader), arguments)


if __name__ == "__main__":
    run_script(main, parser)
