"""Further Sacred observers, described in files and kept from disturbing the run."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import logging
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from incasem_like.config.locations import find_file
from incasem_like.config.reading import read_keys
from incasem_like.errors import InputError
from incasem_like.terminal import nearest

log = logging.getLogger("incasem_like.tracking")
SECONDS_TO_FINISH = 10.0
MOST_WAITING = 1000
CLASS_KEY = "observer"
_KNOWN_BY_KEYS = {"webhook_url": "SlackObserver", "chat_id": "TelegramObserver"}
_NOT_FOR_ONE_RUN = {"RunObserver", "TinyDbReader"}


class GuardedObserver:
    """Passes the events of a run on to another observer of Sacred's; the id that this gives the run does not count.

    An observer that is too slow misses heartbeats, and other events once very many wait. Only the type of its errors is
    reported: messages quote addresses, and the address of a Slack webhook is its password.
    """

    def __init__(self, observer: Any, name: str) -> None:
        self.observer, self.name = observer, name
        self._waiting: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(MOST_WAITING)
        self._joined = threading.Event()
        self._thread: threading.Thread | None = None
        self._complained: set[str] = set()
        self._files = tempfile.TemporaryDirectory(prefix="observed_", ignore_cleanup_errors=True)

    def __getattr__(self, method: str) -> Callable[..., None]:
        if not method.endswith("_event"):
            raise AttributeError(method)
        return lambda **event: self._pass_on(method, event)

    def log_metrics(self, metrics_by_name: dict[str, Any], info: dict[str, Any]) -> None:  # noqa: D102
        if metrics_by_name:
            self._pass_on("log_metrics", {"metrics_by_name": metrics_by_name, "info": info})

    def artifact_event(self, name: str, filename: str, **event: Any) -> None:  # noqa: D102
        kept = Path(tempfile.mkdtemp(dir=self._files.name)) / Path(filename).name
        shutil.copyfile(filename, kept)  # who added it may delete it before it is looked at
        self._pass_on("artifact_event", {"name": name, "filename": str(kept), **event})

    def join(self) -> None:
        """Wait a little for what is on its way."""
        self._pass_on("join", {})
        if self._joined.wait(SECONDS_TO_FINISH):
            self._files.cleanup()
        else:
            log.warning("%s did not take the end of the run within %g s.", self.name, SECONDS_TO_FINISH)

    def _pass_on(self, method: str, event: dict[str, Any]) -> None:
        if method == "heartbeat_event" and not self._waiting.empty():
            return  # the next one says the same and more
        waiting = (method, copy.deepcopy(event))  # the values of now, which it may change
        while True:
            try:
                self._waiting.put_nowait(waiting)
                break
            except queue.Full:
                self._complain("is too slow: it misses some of the run", "slow")
                with contextlib.suppress(queue.Empty):
                    self._waiting.get_nowait()  # the oldest: how the run ends is what people wait for
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="observer", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        method = ""
        while method != "join":
            method, event = self._waiting.get()
            try:
                getattr(self.observer, method)(**event)
            except BaseException as error:
                self._complain(f"failed ({type(error).__name__}): the run continues without it", method)
        self._joined.set()

    def _complain(self, what: str, occasion: str) -> None:
        if occasion not in self._complained:
            self._complained.add(occasion)
            log.warning("%s %s.", self.name, what)


def read_observer(path: Path, folders: Sequence[Path], class_name: str | None = None) -> GuardedObserver:
    """Make the observer that a file describes; it follows a run without ever holding it up or failing it.

    Args:
        path: JSON or YAML with the observer's settings and, under ``observer``, its class: a name of
            ``sacred.observers`` or ``package.module.Class``. A file with ``webhook_url`` is Slack's, one with
            ``token`` and ``chat_id`` Telegram's.
        folders: Where a relative path is looked for.
        class_name: The class, where the file need not name it.

    Raises:
        InputError: The file is missing or names no class, or the class does not take the settings, which hold
            passwords and are never shown.
    """
    path = find_file(path.expanduser(), folders, "--slack" if class_name == "SlackObserver" else "--observer")
    settings = read_keys(path)
    by_keys = next((name for key, name in _KNOWN_BY_KEYS.items() if key in settings), None)
    name = settings.pop(CLASS_KEY, None) or class_name or by_keys
    if name is None:
        raise InputError(
            f"{path} does not say what follows the run: write '{CLASS_KEY}: CLASS' into it, with the name of one of "
            "Sacred's observers, such as SlackObserver."
        )
    from incasem_like.tracking.sacred_parts import observers

    module, _, short = str(name).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module) if module else observers, short, None)
        if not callable(getattr(kind, "started_event", None)):
            known = sorted(set(observers.__all__) - _NOT_FOR_ONE_RUN)
            raise InputError(
                f"{path} names the unknown observer '{name}'{nearest(str(name), known)}: Sacred has "
                f"{', '.join(known)}; another package's is written package.module.Class."
            )
        return GuardedObserver(_construct(kind, settings), f"{name} of {path}")
    except ImportError as error:
        raise InputError(f"{path} names {name}, but {error.name} is not installed: install it with pip.") from None
    except InputError:
        raise
    except Exception as error:  # only names of settings that are missing or too many, never values
        problem = str(error).rpartition(") ")[2] if isinstance(error, TypeError) else ""
        raise InputError(
            f"{name} does not take the settings in {path} ({problem or type(error).__name__}): correct them."
        ) from None


def _construct(kind: Any, settings: dict[str, Any]) -> Any:
    """Make an observer; those of Sacred that read files get one without the class, which they do not know."""
    if not hasattr(kind, "from_config"):
        return kind(**settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "observer.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(settings), encoding="utf-8")
        return kind.from_config(str(file))
