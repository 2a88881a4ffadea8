"""``incasem-like``: the console command, its groups of commands, and the errors of a mistyped command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import incasem_like
from incasem_like.commands.lazy_group import LazyGroup, Member
from incasem_like.errors import InputError
from incasem_like.terminal import nearest, run_guarded

NAME = "incasem-like"
GROUPS = {
    "runs": Member("incasem_like.commands.runs", "runs", "find, compare, keep and move tracked runs"),
    "models": Member("incasem_like.commands.models", "models", "list, download, import and export models"),
    "jobs": Member("incasem_like.commands.jobs", "jobs", "watch, cancel and repeat work on blocks of volumes"),
    "report": Member("incasem_like.commands.report", "report", "write a page on a run, or compare several"),
    "figure": Member("incasem_like.commands.figure", "figure", "write a picture or a movie of sections of volumes"),
    "paint": Member("incasem_like.commands.paint", "paint", "paint labels of a crop in napari"),
    "view": Member("incasem_like.commands.view", "view", "show volumes, runs and data configurations in neuroglancer"),
}
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


@click.group(cls=LazyGroup, members=GROUPS, name=NAME, context_settings=CONTEXT)
@click.version_option(incasem_like.__version__, prog_name=NAME)
def cli() -> None:
    """Tracked runs and models of experiment-tracked segmentation.

    Training and prediction themselves are scripts: scripts/02_train/train.py, scripts/03_predict/predict.py.
    """


def main() -> NoReturn:
    """Run the command line of this process and exit with its status."""
    typed = os.path.basename(sys.argv[0])
    program = "python -m incasem_like" if typed == "__main__.py" else typed
    run_guarded(lambda: answer(sys.argv[1:], program), debug="--debug" in sys.argv)


def answer(arguments: Sequence[str], program: str = NAME) -> int:
    """Run a command line.

    Args:
        arguments: The words after the program's name.
        program: Name that the program was called by, for messages and ``--help``.

    Returns:
        The exit status.

    Raises:
        InputError: The command line is wrong; or any error that the command raises.
    """
    try:
        status = cli.main(list(arguments), prog_name=program, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        raise InputError(_sentence(error)) from None
    except click.Abort:
        raise KeyboardInterrupt from None
    except BrokenPipeError:
        # `| head` has read enough: not an error, and Python must not complain while it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status if isinstance(status, int) else 0


def _sentence(error: click.UsageError) -> str:
    """Return click's error as one sentence, with the command that explains the flags."""
    context = error.ctx
    help_command = f"see {context.command_path if context else NAME} --help."
    if isinstance(error, click.NoSuchOption):
        known = [name for param in context.command.params for name in param.opts] if context else []
        return f"Unknown flag {error.option_name}{nearest(error.option_name, known)}: {help_command}"
    words = " ".join(error.format_message().split()).removesuffix(".")
    return f"{words}: {help_command}"
