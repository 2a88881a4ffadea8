#!/usr/bin/env python
"""Write a data configuration from datasets on disk."""

import argparse
from pathlib import Path

from incasem_like.terminal import at_least, report_written, run_script, script_parser, shell_command

parser = script_parser("Write a data configuration: one entry per container, where raw, labels and masks overlap.")
add = parser.add_argument
add("-f", "--filename", type=Path, nargs="+", required=True, help="containers with the same dataset names")
add("-r", "--raw", default="volumes/raw", help="dataset of the raw volume")
add("-l", "--labels", nargs="*", default=(), help="label datasets of the classes 1, 2 and so on")
add("--mask", help="dataset of a mask; 0 = not learnt")
add("--metric_masks", nargs="*", default=(), help="datasets of masks for scores")
add("-o", "--output", type=Path, required=True, help="JSON to write")
add("--context", type=at_least(0), default=47, help="voxels of raw to leave around a region with labels, if there are")
add("--validation", type=float, metavar="SHARE", help="share of each region for a second JSON, such as 0.2")
add("--validation_output", type=Path, help="the second JSON; by default OUTPUT with _validation before its suffix")
add("--gap", type=at_least(0), default=47, help="voxels between a training region and the validation region beside it")
add("--overwrite", action="store_true", help="replace existing files")


def main(arguments: argparse.Namespace) -> None:
    """Suggest the regions, split them and write the files."""
    from incasem_like.commands.data_configs import Datasets, split_entry, suggest_entry, write_data_configs
    from incasem_like.volumes import open_volume

    datasets = Datasets(
        raw=arguments.raw, labels=arguments.labels, mask=arguments.mask, metric_masks=arguments.metric_masks
    )
    entries = [suggest_entry(container, datasets, arguments.context) for container in arguments.filename]
    files = [(arguments.output, entries)]
    if arguments.validation is not None:
        second = arguments.validation_output
        second = second or arguments.output.with_name(f"{arguments.output.stem}_validation{arguments.output.suffix}")
        pairs = [
            split_entry(
                entry, [open_volume(container, name) for name in datasets.labels], arguments.validation, arguments.gap
            )
            for container, entry in zip(arguments.filename, entries, strict=True)
        ]
        files = [(arguments.output, [train for train, _ in pairs]), (second, [held_out for _, held_out in pairs])]
    write_data_configs(files, arguments.overwrite)
    paths = [path for path, _ in files]
    for path in paths:
        report_written("the data configuration", str(path))
    print(f"Next: {shell_command('python', 'scripts/01_data_formatting/check_data_config.py', *paths)}")


if __name__ == "__main__":
    run_script(main, parser)
