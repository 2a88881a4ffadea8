"""Sacred observers described in files: Slack, Telegram and any other class that Sacred or a package of it offers."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.config.locations import find_file
from incasem_like.config.reading import read_keys
from incasem_like.errors import InputError
from incasem_like.terminal import nearest

if TYPE_CHECKING:
    from sacred.observers import RunObserver

CLASS_KEY = "observer"
_KNOWN_BY_KEYS = (("SlackObserver", {"webhook_url"}), ("TelegramObserver", {"token", "chat_id"}))
_NOT_FOR_ONE_RUN = {"RunObserver", "TinyDbReader"}


def read_observer(path: Path, folders: Sequence[Path], class_name: str | None = None) -> RunObserver:
    """Make the observer that a file describes; it follows a run without ever holding it up or failing it.

    Args:
        path: JSON or YAML with the observer's settings and, under ``observer``, its class: a name of
            ``sacred.observers`` or ``package.module.Class``. A file with ``webhook_url`` is Slack's, one with
            ``token`` and ``chat_id`` Telegram's.
        folders: Where a relative path is looked for.
        class_name: The class, where the file need not name it.

    Raises:
        InputError: The file is missing or names no class, or the class does not take the settings. What the settings
            are is never said, since they hold passwords.
    """
    from incasem_like.tracking.recording.guarded import GuardedObserver

    found = find_file(path.expanduser(), folders, "--slack" if class_name == "SlackObserver" else "--observer")
    settings = read_keys(found)
    name = str(settings.pop(CLASS_KEY, None) or class_name or _class_by_keys(settings, found))
    return GuardedObserver(_construct(_find_class(name, found), settings, found), f"{name} of {found}")


def _class_by_keys(settings: Mapping[str, Any], path: Path) -> str:
    for name, keys in _KNOWN_BY_KEYS:
        if keys <= settings.keys():
            return name
    raise InputError(
        f"{path} does not say what follows the run: write '{CLASS_KEY}: CLASS' into it, with the name of one of "
        "Sacred's observers, such as SlackObserver."
    )


def _find_class(name: str, path: Path) -> Any:
    from incasem_like.tracking.recording.sacred_quietly import observers

    module, _, short = name.rpartition(".")
    known = sorted(set(observers.__all__) - _NOT_FOR_ONE_RUN)
    try:
        found = getattr(importlib.import_module(module) if module else observers, short, None)
    except ImportError as error:
        raise InputError(f"{path} names {name}, but {error.name} is not installed: install it with pip.") from None
    if not callable(getattr(found, "started_event", None)):
        raise InputError(
            f"{path} names the observer '{name}', which there is not{nearest(name, known)}: Sacred has "
            f"{', '.join(known)}; another package's is written package.module.Class."
        )
    return found


def _construct(kind: Any, settings: dict[str, Any], path: Path) -> Any:
    try:
        if not hasattr(kind, "from_config"):
            return kind(**settings)
        with tempfile.TemporaryDirectory() as folder:  # without the class, which Sacred's own readers do not know
            file = Path(folder) / "observer.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(settings), encoding="utf-8")
            return kind.from_config(str(file))
    except ImportError as error:
        raise InputError(
            f"{kind.__name__} of {path} needs the package {error.name or 'that it names'}: install it with pip."
        ) from None
    except TypeError as error:  # names of settings that are missing or too many, never values
        problem = str(error).rpartition(") ")[2] or type(error).__name__
        raise InputError(f"{kind.__name__} does not take the settings in {path} ({problem}): correct them.") from None
    except Exception as error:
        raise InputError(
            f"{kind.__name__} cannot be set up from {path} ({type(error).__name__}): correct its settings."
        ) from None
