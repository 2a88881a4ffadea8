"""Sacred's way of calling a script, ``train.py [flags] with config.yaml key=value …``, read without Sacred."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from incasem_like.commands.run_flags import LEVELS, about_sacred_flag, add_run_flags
from incasem_like.errors import ConfigError, InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.address import as_folder

COMMANDS = ("print_config",)
_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class CommandLine:
    """A command line, read.

    Attributes:
        own: Values of the script's own flags.
        command: ``run`` or ``print_config``.
        files: Configuration files in their order, as typed.
        updates: ``key=value`` in their order.
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
    _check_store_flags(own)
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
        store=own.mongodb or (own.file_storage and as_folder(own.file_storage)),
        offline=own.offline,
        slack=Path(own.slack) if own.slack else None,
        observers=tuple(Path(name) for name in own.observer or ()),
    )


def format_config(config: dict[str, Any]) -> str:
    """Write a configuration as YAML, for ``print_config``; URLs without their credentials."""
    import yaml

    from incasem_like.tracking.values import plain, without_credentials

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
    limit = 1 if action.nargs == "?" else len(rest)
    count = 0
    while count < limit and count < len(rest) and not _ends_values(rest[count], behind_with):
        count += 1
    return count


def _ends_values(token: str, behind_with: bool) -> bool:
    return token == "with" or token in COMMANDS or token.startswith("-") or (behind_with and _is_item(token))


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


def _check_store_flags(own: argparse.Namespace) -> None:
    if own.mongodb and own.file_storage:
        raise InputError("A run has one store: give --mongodb or --file_storage, not both.")
    if own.offline and own.unobserved:
        raise InputError(
            "--offline keeps a record to be uploaded later, --unobserved keeps none: give one of them, not both."
        )
    if own.offline and own.file_storage:
        raise InputError(
            "--file_storage keeps the run as files already, no server is needed: leave --offline out, or give the "
            "database with --mongodb."
        )


def _read_words(words: list[str], parser: argparse.ArgumentParser) -> str:
    """Find the command among the words that are not flags."""
    for word in words:
        if word.startswith("-"):
            name = word.split("=")[0]
            if advice := about_sacred_flag(name):
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
    if text.upper() not in LEVELS:
        near, advice = nearest(text.upper(), LEVELS), f"choose {', '.join(LEVELS)} or a number"
        raise InputError(_advised(f"Unknown log level '{text}'", near, advice))
    return int(getattr(logging, text.upper()))
