"""A group of commands that imports one only when it is called, so that ``--help`` answers at once."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from incasem_like.errors import InputError
from incasem_like.terminal import nearest


@dataclass(frozen=True)
class Member:
    """A command of a group, before it is imported.

    Attributes:
        module: Module that defines it; a command whose module does not exist is not offered.
        name: The click command in that module.
        purpose: One line for the group's ``--help``.
    """

    module: str
    name: str
    purpose: str

    @property
    def exists(self) -> bool:
        """Whether the module exists; its parent package is imported, the module itself is not."""
        return importlib.util.find_spec(self.module) is not None

    def load(self) -> click.Command:
        """Import the command."""
        command = getattr(importlib.import_module(self.module), self.name)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A click group over members that are imported when they are called.

    Args:
        members: The members by command name, in the order of the group's ``--help``.
    """

    def __init__(self, *arguments: Any, members: Mapping[str, Member], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.members = {word: member for word, member in members.items() if member.exists}

    def list_commands(self, context: click.Context) -> list[str]:  # noqa: D102
        return list(self.members)

    def get_command(self, context: click.Context, word: str) -> click.Command | None:  # noqa: D102
        return self.members[word].load() if word in self.members else None

    def resolve_command(  # noqa: D102
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = arguments[0]
        if word not in self.members and not word.startswith("-"):
            near = nearest(word, list(self.members)) or f": choose {', '.join(self.members)}."
            raise InputError(f"'{word}' is not a command of {context.command_path}{near}")
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        with formatter.section("Commands"):
            formatter.write_dl([(word, member.purpose) for word, member in self.members.items()])
