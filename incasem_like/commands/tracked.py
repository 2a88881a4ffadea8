"""The frame of every tracked command: ``[flags] [print_config] with CONFIG.yaml key=value ...``."""

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
        parser: Parser with the command's own flags; those of every tracked command are added.
        example: Arguments of the example that ``--help`` shows.
        read_config: Makes the validated configuration from the command line.
        work: Does the command's work.
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

    debug = {"--debug"} if "-d" in parser._option_string_actions else {"-d", "--debug"}  # -d may be the script's own
    use_huge_pages()
    run_guarded(act, debug=bool(debug & set(sys.argv)))


def script_folder(script: Path) -> Path:
    """Return the folder of a script, where configuration files of the command line are searched too."""
    return script.resolve().parent
