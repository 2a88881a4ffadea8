"""Sacred's way of calling a script, ``train.py [flags] with config.yaml key=value …``, read without Sacred."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from incasem_like.commands.options import DEBUG_OPTION, add_options, add_record_flags, run_id, store_url
from incasem_like.errors import ConfigError, InputError
from incasem_like.terminal import HelpFormatter, nearest
from incasem_like.tracking.address import as_folder
from incasem_like.tracking.values import plain, without_credentials

COMMANDS = ("print_config",)
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEFAULT_SLACK_FILE = "slack.json"
_SUFFIXES = (".yaml", ".yml", ".json")
_HOW_TO = """\
after the word 'with':
  CONFIG.yaml          a configuration file; a later one overrides an earlier one
  key=value            one configuration value: training.iterations=2000, model.num_fmaps=12

instead of running:
  %(prog)s print_config with CONFIG.yaml    print the whole configuration and stop
"""
_OTHER_OBSERVERS = "describe that observer in a file and give it with --observer FILE"
_NOT_NEEDED = {
    ("-C", "--capture"): "output is always captured, without that of child processes: leave it out",
    ("-b", "--beat_interval", "--beat-interval"): "the record is updated every ten seconds: leave it out",
    ("-f", "--force"): "a key that no configuration knows would have no effect: correct the key and leave the flag out",
    ("-D", "--pdb"): "start python -m pdb with the script and --debug instead",
    ("-e", "--enforce_clean", "--enforce-clean"): "commit, stash or see 'git status' before the run; each run records "
    "its commit and whether files differed, and --check_commit compares with those of a tracked run",
    ("-P", "--priority"): "nothing is queued here: leave it out",
    ("-q", "--queue"): "nothing is queued here: start the run when it is to run",
    ("-s", "--sql"): _OTHER_OBSERVERS,
    ("-t", "--tiny_db", "--tiny-db"): _OTHER_OBSERVERS,
    ("-S", "--s3"): _OTHER_OBSERVERS,
}


@dataclass(frozen=True)
class CommandLine:
    """A command line, read.

    Attributes:
        own: Values of the script's own flags.
        command: ``run`` or ``print_config``.
        files: Configuration files in their order, as typed.
        updates: ``key=value`` in their order, --runs_directory as the last.
        name: Name for the run, or None.
        comment: Remark for the run, or None.
        id: Requested run id, or None.
        print_config: Print the configuration before running.
        loglevel: Level of the root logger, or None.
        unobserved: Whether to keep no record.
        debug: Whether to show the traceback of an error.
        store: Value of ``--mongodb`` or ``--file_storage``, or None; may contain a password.
        offline: Whether to keep the run on disk until the database can be reached.
        slack: File with the Slack webhook to notify, or None.
        observers: Files that describe further Sacred observers.
    """

    own: argparse.Namespace = field(repr=False)
    command: str
    files: tuple[Path, ...]
    updates: tuple[str, ...]
    name: str | None
    comment: str | None
    id: int | None
    print_config: bool
    loglevel: int | None
    unobserved: bool
    debug: bool
    store: str | None = field(repr=False)
    offline: bool = False
    slack: Path | None = None
    observers: tuple[Path, ...] = ()

    @property
    def typed_updates(self) -> tuple[str, ...]:
        """The ``key=value`` as typed, without --runs_directory."""
        return self.updates[:-1] if self.own.runs_directory else self.updates


def parse_command_line(
    argv: Sequence[str], own_parser: argparse.ArgumentParser, *, example: str = "with CONFIG.yaml"
) -> CommandLine:
    """Read a command line of the form ``[flags] [print_config] [with CONFIG.yaml key=value …] [flags]``.

    Args:
        argv: The words after the script's name.
        own_parser: Parser with the script's own flags; the flags of every tracked script are added to it here.
        example: Arguments of the example that ``--help`` shows.

    Raises:
        ConfigError: A word after ``with`` is neither a file nor ``key=value``.
        InputError: A flag is unknown or lacks its value, or a file or ``key=value`` comes without ``with``.
    """
    add_run_flags(own_parser, example)
    flags, words, items = _split(list(argv), own_parser)
    own, unknown = _parse_flags(own_parser, flags)
    command = _read_words([*unknown, *words], own_parser)
    files, updates = read_items(items)
    if own.runs_directory:
        updates = (*updates, f"directories.runs={json.dumps(as_folder(own.runs_directory))}")
    return CommandLine(
        own=own,
        command=command,
        files=files,
        updates=updates,
        name=own.name,
        comment=own.comment,
        id=run_id(own.id, "--id"),
        print_config=own.print_config,
        loglevel=_level(own.loglevel),
        unobserved=own.unobserved,
        debug=own.debug,
        store=store_url(own),
        offline=own.offline,
        slack=Path(own.slack) if own.slack else None,
        observers=tuple(Path(name) for name in own.observer or ()),
    )


def add_run_flags(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the flags of every tracked script, except where the script has its own of that name.

    Args:
        parser: Parser with the script's own flags.
        example: Arguments of the example that ``--help`` shows.
    """
    parser.usage = "%(prog)s [flags] [print_config] with CONFIG.yaml [key=value ...]"
    parser.epilog = f"{_HOW_TO}\nexample:\n  %(prog)s {example}\n"
    parser.formatter_class = _HelpFormatter
    add_record_flags(parser)
    group = parser.add_argument_group("messages")
    group.add_argument(
        "--slack",
        metavar="FILE",
        nargs="?",
        const=DEFAULT_SLACK_FILE,
        help=f"notify Slack when the run ends; FILE is JSON or YAML with webhook_url, else {DEFAULT_SLACK_FILE}",
    )
    group.add_argument(
        "--observer",
        metavar="FILE",
        action="append",
        help="add another of Sacred's observers; FILE is JSON or YAML with 'observer', the name of its "
        "class, and its settings; may be given several times",
    )
    meaning = "print the whole configuration before running"
    group.add_argument("-p", "--print_config", "--print-config", action="store_true", help=meaning)
    group.add_argument(
        "-l", "--loglevel", metavar="LEVEL", help=f"how much is reported: {', '.join(LEVELS)} or a number"
    )
    add_options(parser, [DEBUG_OPTION], "errors")


class _HelpFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the lines of the explanation as they are."""


def format_config(config: dict[str, Any]) -> str:
    """Write a configuration as YAML, for ``print_config``; URLs without their credentials."""
    return yaml.safe_dump(without_credentials(plain(config)), sort_keys=False, default_flow_style=None, width=120)


def _split(argv: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str], list[str]]:
    """Separate the flags, which may be on both sides, from the words before ``with`` and the items after it."""
    flags: list[str] = []
    words: list[str] = []
    items: list[str] = []
    behind_with = False
    position = 0
    while position < len(argv):
        token = argv[position]
        if token.startswith("-") and len(token) > 1:
            length = 1 + _values_taken(token, argv[position + 1 :], parser, behind_with)
            flags += argv[position : position + length]
            position += length
            continue
        if token == "with" and not behind_with:
            behind_with = True
        else:
            (items if behind_with else words).append(token)
        position += 1
    return flags, words, items


def _values_taken(flag: str, rest: list[str], parser: argparse.ArgumentParser, behind_with: bool) -> int:
    """Count the tokens after a flag that are its values."""
    action = parser._option_string_actions.get(flag)
    if action is None:
        return 0
    if isinstance(action.nargs, int):
        return min(action.nargs, len(rest))
    if action.nargs is None:
        return min(1, len(rest))
    values = itertools.takewhile(
        lambda token: not (token in ("with", *COMMANDS) or token.startswith("-") or (behind_with and _is_item(token))),
        rest[:1] if action.nargs == "?" else rest,
    )
    return len(list(values))


def _is_item(token: str) -> bool:
    return "=" in token or token.lower().endswith(_SUFFIXES)


def _parse_flags(parser: argparse.ArgumentParser, flags: list[str]) -> tuple[argparse.Namespace, list[str]]:
    def fail(message: str) -> NoReturn:
        text = message[0].upper() + message[1:]
        raise InputError(f"{text}: see {parser.prog} --help.")

    before = parser.error
    parser.error = fail  # type: ignore[method-assign]
    try:
        return parser.parse_known_args(flags)
    finally:
        parser.error = before  # type: ignore[method-assign]


def _advised(problem: str, near: str, advice: str) -> str:
    """Join a problem, the nearest known word, if any, and the advice into a message."""
    return f"{problem}{near} {advice[0].upper()}{advice[1:]}." if near else f"{problem}: {advice}."


def _read_words(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Find the command among the words that are not flags."""
    for word in words:
        if word.startswith("-"):
            name = word.split("=")[0]
            if advice := next((advice for names, advice in _NOT_NEEDED.items() if name in names), None):
                raise InputError(f"Sacred's flag {name} is not needed here: {advice}.")
            known = list(parser._option_string_actions)
            raise InputError(_advised(f"Unknown flag {name}", nearest(name, known), f"see {parser.prog} --help"))
        if _is_item(word):
            raise InputError(f"'{word}' must stand behind the word 'with': {parser.prog} [flags] with {word}.")
        if word == "help":
            parser.print_help()
            raise SystemExit(0)
        if word not in COMMANDS:
            near, advice = nearest(word, [*COMMANDS, "with"]), f"write {parser.prog} [flags] with CONFIG.yaml key=value"
            raise InputError(_advised(f"'{word}' is not a command", near, advice))
    return words[0] if words else "run"


def read_items(items: Sequence[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Separate what stands behind ``with`` into files and ``key=value``.

    Raises:
        ConfigError: A word is neither.
    """
    files: list[Path] = []
    updates: list[str] = []
    for item in items:
        key, is_update, value = item.partition("=")
        if is_update:
            if not key.strip() or (item == "=" or key != key.rstrip()):
                raise ConfigError(
                    f"'{item}' behind 'with' names no key: write key=value without blanks around the equals sign."
                )
            updates.append(f"{key.strip()}={value}")
        elif item.lower().endswith(_SUFFIXES) or os.path.isfile(item):
            files.append(Path(item))
        else:
            raise ConfigError(
                f"'{item}' behind 'with' is neither a .yaml file nor key=value: write {item}=VALUE or CONFIG.yaml."
            )
    return tuple(files), tuple(updates)


def _level(text: str | None) -> int | None:
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    if text.upper() not in LEVELS:
        near, advice = nearest(text.upper(), LEVELS), f"choose {', '.join(LEVELS)} or a number"
        raise InputError(_advised(f"Unknown log level '{text}'", near, advice))
    return int(getattr(logging, text.upper()))
