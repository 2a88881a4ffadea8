"""Sacred's way of calling a script, ``train.py [flags] with config.yaml key=value …``, read without Sacred."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from incasem_like.errors import ConfigError, InputError
from incasem_like.terminal import HelpFormatter, nearest

COMMANDS = ("print_config",)
_SUFFIXES = (".yaml", ".yml", ".json")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_HOW_TO = """\
behind the word 'with':
  CONFIG.yaml          a configuration file; a later one overrides an earlier one
  key=value            one configuration value: training.iterations=2000, model.num_fmaps=12

instead of running:
  %(prog)s print_config with CONFIG.yaml    print the whole configuration and stop
"""


_RUN_FLAGS: tuple[tuple[tuple[str, ...], str | None, str], ...] = (
    (("-n", "--name"), "NAME", "a name for the run"),
    (("-c", "--comment"), "TEXT", "a remark on the run"),
    (("-i", "--id"), "ID", "id for the run; otherwise the store's next one"),
    (
        ("-m", "--mongodb", "--mongo_db"),
        "URL",
        "keep the run in MongoDB: URL, host:port or a JSON file with url, db_name",
    ),
    (("-F", "--file_storage"), "DIR", "keep the run as files below this folder; otherwise below the runs directory"),
    (("-u", "--unobserved"), None, "keep no record of the run"),
    (("-p", "--print_config", "--print-config"), None, "print the whole configuration before running"),
    (("-l", "--loglevel"), "LEVEL", f"how much is reported: {', '.join(_LEVELS)} or a number"),
    (("-d", "--debug"), None, "show the traceback of an error"),
)


@dataclass(frozen=True)
class CommandLine:
    """A command line, read.

    Attributes:
        own: The script's own flags.
        command: ``run`` or ``print_config``.
        files: Configuration files in their order, as typed.
        updates: ``key=value`` in their order.
        name: Name for the run, or None.
        comment: Remark for the run, or None.
        id: Wanted run id, or None.
        print_config: Print the configuration before running.
        loglevel: Level of the root logger, or None.
        unobserved: Keep no record.
        debug: Show the traceback of an error.
        store: What ``--mongodb`` or ``--file_storage`` says, or None; may hold a password.
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


def parse_command_line(
    argv: Sequence[str], own_parser: argparse.ArgumentParser, *, example: str = "with CONFIG.yaml"
) -> CommandLine:
    """Read a command line of the form ``[flags] [print_config] [with CONFIG.yaml key=value …] [flags]``.

    Args:
        argv: What was typed after the script's name.
        own_parser: Holds the script's own flags; those that every tracked script has are added to it here.
        example: What follows the script's name in the example that ``--help`` shows.

    Raises:
        ConfigError: What follows ``with`` is neither a file nor ``key=value``.
        InputError: A flag is unknown or lacks its value, or a file or ``key=value`` comes without ``with``.
    """
    _add_run_flags(own_parser, example)
    flags, items = _split(list(argv), own_parser)
    own, words = _parse_flags(own_parser, flags)
    command = _read_words(words, own_parser)
    files, updates = _read_items(items)
    if own.mongodb and own.file_storage:
        raise InputError("A run has one store: give --mongodb or --file_storage, not both.")
    return CommandLine(
        own=own,
        command=command,
        files=files,
        updates=updates,
        name=own.name,
        comment=own.comment,
        id=_run_id(own.id),
        print_config=own.print_config,
        loglevel=_level(own.loglevel),
        unobserved=own.unobserved,
        debug=own.debug,
        store=own.mongodb or own.file_storage,
    )


def format_config(config: dict[str, Any]) -> str:
    """Write a configuration as YAML, for ``print_config``; URLs without their credentials."""
    import yaml

    from incasem_like.tracking.plain import plain, without_credentials

    return yaml.safe_dump(without_credentials(plain(config)), sort_keys=False, default_flow_style=None, width=120)


class _HelpFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the lines of the explanation as they are."""


def _add_run_flags(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the flags of every tracked script, except where the script has its own of that name."""
    parser.usage = "%(prog)s [flags] [print_config] with CONFIG.yaml [key=value ...]"
    parser.epilog = f"{_HOW_TO}\nexample:\n  %(prog)s {example}\n"
    parser.formatter_class = _HelpFormatter
    group = parser.add_argument_group("the run and its record")
    for names, metavar, meaning in _RUN_FLAGS:
        owner = next((action for name in names if (action := parser._option_string_actions.get(name))), None)
        free = [name for name in names if name not in parser._option_string_actions]
        options: dict[str, Any] = {"metavar": metavar} if metavar else {"action": "store_true"}
        if owner is None:
            group.add_argument(*free, help=meaning, **options)
        elif free:
            same = f"same as {owner.option_strings[0]}"
            group.add_argument(*free, dest=owner.dest, default=argparse.SUPPRESS, help=same, **options)


def _split(argv: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Part the flags, which may stand on both sides, from what follows ``with``."""
    flags: list[str] = []
    items: list[str] = []
    behind_with = False
    position = 0
    while position < len(argv):
        token = argv[position]
        if token.startswith("-") and len(token) > 1:
            length = 1 + _values_taken(token, argv[position + 1 :], parser)
            flags += argv[position : position + length]
            position += length
            continue
        if token == "with" and not behind_with:
            behind_with = True
        else:
            (items if behind_with else flags).append(token)
        position += 1
    return flags, items


def _values_taken(flag: str, rest: list[str], parser: argparse.ArgumentParser) -> int:
    """Count the tokens behind a flag that are its values."""
    action = parser._option_string_actions.get(flag)
    if action is None:
        return 0
    if isinstance(action.nargs, int):
        return min(action.nargs, len(rest))
    if action.nargs is None:
        return min(1, len(rest))
    limit = 1 if action.nargs == "?" else len(rest)
    count = 0
    while count < limit and count < len(rest) and not _ends_values(rest[count]):
        count += 1
    return count


def _ends_values(token: str) -> bool:
    return token == "with" or token.startswith("-") or _is_item(token)


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


def _read_words(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Find the command among what is no known flag."""
    for word in words:
        if word.startswith("-"):
            name = word.split("=")[0]
            known = list(parser._option_string_actions)
            raise InputError(f"There is no flag {name}{nearest(name, known)}: see {parser.prog} --help.")
        if _is_item(word):
            raise InputError(f"'{word}' must stand behind the word 'with': {parser.prog} [flags] with {word}.")
        if word == "help":
            parser.print_help()
            raise SystemExit(0)
        if word not in COMMANDS:
            raise InputError(
                f"'{word}' is no command{nearest(word, [*COMMANDS, 'with'])}: "
                f"write {parser.prog} [flags] with CONFIG.yaml key=value."
            )
    return words[0] if words else "run"


def _read_items(items: list[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
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


def _run_id(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise InputError(f"A run id is a whole number from 1, found '{text}': correct --id or leave it out.")
    return int(text)


def _level(text: str | None) -> int | None:
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    if text.upper() not in _LEVELS:
        raise InputError(
            f"There is no log level '{text}'{nearest(text.upper(), _LEVELS)}: choose {', '.join(_LEVELS)} or a number."
        )
    return int(getattr(logging, text.upper()))
