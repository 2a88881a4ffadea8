"""What every tracked command does alike: ``[flags] [print_config] with CONFIG.yaml key=value ...``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from incasem_like.commands.cpu_memory import use_huge_pages
from incasem_like.terminal import run_guarded

if TYPE_CHECKING:
    from pydantic import BaseModel

    from incasem_like.commands.command_line import CommandLine

Config = TypeVar("Config", bound="BaseModel")


def run_tracked(
    parser: argparse.ArgumentParser,
    example: str,
    read_config: Callable[[CommandLine], Config],
    work: Callable[[Config, CommandLine], None],
) -> NoReturn:
    """Read the command line and the configuration, print the latter if asked to, do the work, and exit.

    Args:
        parser: Holds the command's own flags; those that every tracked command has are added.
        example: What follows the script's name in the example that ``--help`` shows.
        read_config: Makes the validated configuration of what the command line says.
        work: Does what the command is for.
    """
    from incasem_like.commands.command_line import parse_command_line

    def act() -> None:
        line = parse_command_line(sys.argv[1:], parser, example=example)
        if line.loglevel is not None:
            logging.getLogger().setLevel(line.loglevel)
        config = read_config(line)
        if line.print_config or line.command == "print_config":
            from incasem_like.commands.command_line import format_config

            print(format_config(config.model_dump(mode="json")))
        if line.command != "print_config":
            work(config, line)

    use_huge_pages()
    run_guarded(act, debug=bool({"-d", "--debug"} & set(sys.argv)))


def script_folder(script: Path) -> Path:
    """The folder of a script, where configuration files named on the command line are looked for too."""
    return script.resolve().parent
