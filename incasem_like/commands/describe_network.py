"""``describe_network.py``: layers, parameters, field of view, valid sizes and memory of a configured network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from incasem_like.commands.command_line import read_items
from incasem_like.commands.tables import Column, print_table, size
from incasem_like.config import load_training_config
from incasem_like.errors import ConfigError, InputError
from incasem_like.terminal import run_script, script_parser
from incasem_like.tracking import open_store


def main(script: Path) -> NoReturn:
    """Describe the network of the configuration that the command line of ``script`` names."""
    parser = script_parser(
        "Show layers, parameters, field of view, valid sizes and memory of the network of a training configuration.",
        usage="%(prog)s [-h] [--summary] with CONFIG.yaml key=value ...",
    )
    parser.add_argument("items", nargs="*", metavar="with CONFIG.yaml key=value", help="the configuration, as train.py")
    parser.add_argument("--summary", action="store_true", help="leave out the layers")
    run_script(lambda arguments: describe(arguments, script.resolve().parent), parser)


def describe(arguments: argparse.Namespace, search: Path) -> None:
    """Print the tables of the network that the configuration describes.

    Raises:
        ConfigError: The configuration is wrong, or its input size does not fit the network.
    """
    words: list[str] = arguments.items
    if words and words[0] != "with":
        raise InputError(f"'{words[0]}' must stand behind the word 'with': write with CONFIG.yaml key=value.")
    files, updates = read_items(words[1:])
    config = load_training_config(files, updates, search)
    from incasem_like.networks import check_output, describe_network, geometry_in_volumes, network_geometry, sizes_near
    from incasem_like.training.start import with_first_network

    runs = config.directories.runs
    config = with_first_network(config, lambda: open_store(config.tracking.url, "trainings", runs))
    check_output(config.model)
    geometry = geometry_in_volumes(network_geometry(config.model))
    asked = config.training.input_size_voxels
    taken = geometry.nearest_valid(asked)[0] or geometry.smallest_input
    batch_size = config.training.batch_size
    found = describe_network(config.model, taken, batch_size)
    if not arguments.summary:
        titles = {"layer": False, "kind": False, "channels": True, "voxels": False, "parameters": True}
        rows = []
        for layer in found.layers:
            channels = str(layer.output[0]) if layer.output else "-"
            rows.append((layer.name, layer.kind, channels, _by(layer.output[1:]), f"{layer.parameters:,}"))
        print_table([Column(title, right) for title, right in titles.items()], rows)
        print()
    frozen = f", and {found.frozen:,} that are frozen" if found.frozen else ""
    field = "not known" if geometry.field_of_view is None else f"{_by(geometry.field_of_view)} voxels at most"
    print_table(
        [Column("network"), Column(config.model.type)],
        [
            ("parameters", f"{found.trained:,}{frozen}"),
            ("field of view", field),
            ("input minus output", f"{_by(geometry.lost)} voxels, both sides together"),
            ("halo", f"{_by(geometry.border)} voxels per side of the output, which tiles of a prediction discard"),
            ("valid sizes", f"{_by(geometry.smallest_input)} and steps of {_by(geometry.stride)}"),
            ("memory", f"{size(found.training_bytes)} for an update of {batch_size} x {_by(taken)}, 32 bits"),
            ("", f"{size(found.prediction_bytes)} for their prediction"),
        ],
    )
    print()
    print_table(
        [Column("input"), Column("output")],
        [(_by(one), _by(geometry.output_size(one))) for one in sizes_near(geometry, taken)],
    )
    if tuple(asked) != tuple(taken):
        raise ConfigError(
            f"training.input_size_voxels={list(asked)} does not fit the network: set it to one of the sizes above."
        )


def _by(numbers: Sequence[int]) -> str:
    return " x ".join(map(str, numbers)) or "-"
