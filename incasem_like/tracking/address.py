"""Where runs are kept: what a tracking URL, ``host:port``, incasem's JSON file or a folder stands for."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from incasem_like.errors import InputError
from incasem_like.tracking.kinds import KINDS
from incasem_like.tracking.values import without_credentials

ENVIRONMENT_VARIABLE = "INCASEM_TRACKING_URL"
_HOST_AND_PORT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.-]*:\d{1,5}$")
_UNESCAPED = re.compile(r"[\s'\"]")
_USER_AND_HOST = re.compile(r"^[^/\\]+:[^/\\]*@[A-Za-z0-9][A-Za-z0-9.,:-]*(/.*)?$")
_DEFAULT_DATABASES = ("", "admin")


@dataclass(frozen=True)
class FolderAddress:
    """Runs kept as files below a folder."""

    folder: Path


@dataclass(frozen=True)
class MongoAddress:
    """Runs kept in MongoDB. ``url`` may hold a password: print ``described``, never ``url``."""

    url: str
    database_prefix: str = "incasem"
    trainings_database: str | None = None

    def database(self, kind: str) -> str:
        """Name the database of a kind of run, ``incasem_trainings`` unless another name was asked for."""
        if kind == "trainings" and self.trainings_database:
            return self.trainings_database
        return f"{self.database_prefix}_{kind}"

    @property
    def described(self) -> str:
        """The URL without its credentials."""
        return str(without_credentials(self.url))

    def __repr__(self) -> str:
        return f"MongoAddress({self.described!r})"


def parse_address(url: str | Path | None, runs_directory: Path) -> FolderAddress | MongoAddress:
    """Find out what kind of store an address means.

    Args:
        url: ``mongodb://…`` or ``mongodb+srv://…``; ``host:port``; a JSON file ``{"url": …, "db_name": …}`` as incasem
            has them; a folder; or None for the environment variable ``INCASEM_TRACKING_URL`` and, where that is not
            set, ``<runs_directory>/tracking``.
        runs_directory: The folder of training runs, home of the default store.

    Raises:
        InputError: The JSON file is missing or lacks its keys, or the URL has a scheme that no store answers to, blanks
            or quotation marks, or credentials without a scheme.
    """
    text = os.path.expandvars(str(url)) if url else os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not text:
        return FolderAddress(runs_directory / "tracking")
    if text.startswith(("mongodb://", "mongodb+srv://")):
        return _mongo_address(text, _database_in_path(text))
    if "://" in text:
        scheme = text.split("://")[0]
        raise InputError(
            f"A tracking URL cannot start with {scheme}://: give mongodb://host:port, host:port or a folder."
        )
    if text.lower().endswith(".json"):
        return _read_json(Path(text).expanduser())
    if _HOST_AND_PORT.match(text) and not Path(text).exists():
        return _mongo_address(f"mongodb://{text}", None)
    if _USER_AND_HOST.match(text) and not Path(text).exists():  # not quoted, since it holds a password
        raise InputError(
            "A tracking URL with a user name and password begins with mongodb://: write "
            "mongodb://USER:PASSWORD@HOST:PORT."
        )
    folder = Path(text).expanduser().absolute()
    if folder.is_file():
        raise InputError(
            f"{folder} is a file, but runs are kept in a folder: name one, a .json file or mongodb://host."
        )
    return FolderAddress(folder)


def _database_in_path(url: str) -> str | None:
    name = urlsplit(url).path.strip("/")
    return None if name in _DEFAULT_DATABASES else name


def _mongo_address(url: str, database: str | None) -> MongoAddress:
    if _UNESCAPED.search(url):  # in a longer text its password could not be told from other words
        raise InputError(
            f"The URL {without_credentials(url)} holds blanks or quotation marks: percent-encode special characters in "
            "the user name and password, a blank as %20."
        )
    if database is None:
        return MongoAddress(url)
    for kind in KINDS:
        if database.endswith(f"_{kind}"):
            return MongoAddress(url, database.removesuffix(f"_{kind}"))
    return MongoAddress(url, database, trainings_database=database)


def _read_json(path: Path) -> MongoAddress:
    if not path.is_file():
        raise InputError(f"The database file {path} does not exist: name one, or give mongodb://host:port instead.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        url = content["url"]
        name = content.get("db_name")
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        url = name = None
    if not isinstance(url, str) or not url or not (name is None or isinstance(name, str)):
        raise InputError(
            f"The database file {path} lacks a url that can be read: write JSON of the form "
            '{"url": "localhost:27017", "db_name": "incasem_trainings"}.'
        )
    full = url if "://" in url else f"mongodb://{url}"
    if not full.startswith(("mongodb://", "mongodb+srv://")):
        raise InputError(f'"url" in {path} must be mongodb://… or host:port, found {full.split("://")[0]}://.')
    return _mongo_address(full, name or _database_in_path(full))
