#!/usr/bin/env python
"""Import annotated crops: labels painted on a part of a volume, or crops that store many classes as ids."""

import argparse
import json
from pathlib import Path

from incasem_like.terminal import add_worker_flags, report_written, run_script, script_parser

ZYX = ("Z", "Y", "X")
parser = script_parser("Import labels painted on a part of a volume, or with --classes, crops of COSEM and CellMap.")
add = parser.add_argument
add("-i", "--input", required=True, help="painted image, folder or volume; with --classes the container of the crops")
add("-f", "--output_file", required=True, help="container to write")
add("-r", "--raw", default="volumes/raw", help="raw in that container; for a painting also container/dataset")
add("-o", "--out_dataset", default="crop", help="group for a painting: labels, mask and raw")
add("--offset", type=int, nargs=3, metavar=ZYX, help="position of the painting's first voxel, absolute voxels")
add("--margin", type=int, nargs=3, default=(0, 0, 0), metavar=ZYX, help="voxels of raw around the painted box")
add("--classes", nargs="+", metavar="NAME=ID,ID:ZONE", help="ids of each class, and the width of the zone around it "
    "that is not scored; mito, golgi, er and np are COSEM's")  # fmt: skip
add("--pattern", default=r".*crop\w*/labels/all", help="regular expression of the crops' datasets")
add("-c", "--chunk_shape", type=int, nargs=3, default=(128, 128, 128), metavar=ZYX, help="chunks, voxels")
add_worker_flags(parser)
add("--overwrite", action="store_true", help="replace existing results")


def main(arguments: argparse.Namespace) -> None:
    """Import the crops, and write a data configuration for each class."""
    from incasem_like.blockwise.workers_file import given_workers
    from incasem_like.disk import check_output_file, write_whole
    from incasem_like.formatting.crops import import_crops, import_painting, parse_classes
    from incasem_like.formatting.derive import Derivation

    output = str(Path(arguments.output_file).absolute())
    derivation = Derivation(
        output, "", arguments.out_dataset, tuple(arguments.chunk_shape), arguments.num_workers, arguments.overwrite,
        given_workers(arguments), output,
    )  # fmt: skip
    if arguments.classes is None:
        raw = arguments.raw if Path(arguments.raw).exists() else f"{output}/{arguments.raw}"
        place = {"offset": arguments.offset, "margin": arguments.margin}
        for written in import_painting(arguments.input, raw, derivation, **place):
            written.report("a dataset", None)
        return
    configs = import_crops(
        arguments.input, arguments.raw, derivation, parse_classes(arguments.classes), arguments.pattern
    )
    for name, entries in configs.items():
        path = Path(output).with_name(f"{name}_config.json")
        text = json.dumps(entries, indent=4) + "\n"
        if not entries:
            print(f"The class {name} occurs in none of the crops: {path.name} is not written")
            continue
        if not (path.exists() and path.read_text() == text):
            check_output_file(path, overwrite=arguments.overwrite)
        write_whole(path, lambda file, text=text: file.write(text.encode()))
        report_written(f"the data configuration of {len(entries)} crops", str(path))


if __name__ == "__main__":
    run_script(main, parser)
