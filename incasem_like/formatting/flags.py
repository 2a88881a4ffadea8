"""Flags of a script from the options of a function: names, types and defaults from its signature, help from its text.

``Annotated[Sequence[int], 3]`` is a flag with three numbers, z, y and x; with 2, a lower and an upper limit.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

METAVARS = {2: ("LOW", "HIGH"), 3: ("Z", "Y", "X")}


def purpose_of(function: Callable[..., Any]) -> str:
    """Return the first line of a function's documentation."""
    return (inspect.getdoc(function) or "").partition("\n")[0].replace("``", "")


def add_options(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> list[str]:
    """Add a flag for each keyword-only argument of a function.

    Args:
        parser: The parser.
        function: The function; its documentation has a section ``Args`` that describes each of them.

    Returns:
        The names of the flags.

    Example:
        >>> def shrink(volume, *, factor: int = 2, in_plane: bool = False) -> None:
        ...     '''Shrink a volume.
        ...
        ...     Args:
        ...         volume: The volume.
        ...         factor: Whole number.
        ...         in_plane: Leave z alone.
        ...     '''
        >>> parser = argparse.ArgumentParser()
        >>> add_options(parser, shrink)
        ['factor', 'in_plane']
        >>> parser.parse_args(["--factor", "3"])
        Namespace(factor=3, in_plane=False)
    """
    hints, texts = get_type_hints(function, include_extras=True), _texts(function)
    names = []
    for name, option in inspect.signature(function).parameters.items():
        if option.kind is not option.KEYWORD_ONLY:
            continue
        required = option.default is option.empty
        settings = {"help": texts[name], "required": required, **_settings(hints[name])}
        if not required:
            settings["default"] = option.default
        parser.add_argument(f"--{name}", **settings)
        names.append(name)
    return names


def _settings(hint: Any) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` that follow from a type."""
    if NoneType in get_args(hint):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    if hint is bool:
        return {"action": "store_true", "required": False}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is Annotated:
        kind, count = get_args(hint)
        return {"type": get_args(kind)[0], "nargs": count, "metavar": METAVARS[count]}
    if get_args(hint):
        return {"type": get_args(hint)[0], "nargs": "+"}
    return {"type": hint}


def _texts(function: Callable[..., Any]) -> dict[str, str]:
    """Return the description of each argument, in one line that begins with a small letter."""
    section = (inspect.getdoc(function) or "").partition("Args:\n")[2].partition("\n\n")[0]
    texts: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
        words = " ".join(text.replace("``", "").split()).rstrip(".").replace("None for", "by default")
        words = words if words[1:2].isupper() else words[:1].lower() + words[1:]
        texts |= {name.strip(): words.replace("%", "%%") for name in names.split(",")}
    return texts
