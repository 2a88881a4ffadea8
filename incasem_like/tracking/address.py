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

SCHEMES = ("mongodb", "mongodb+srv")
ENVIRONMENT_VARIABLE = "INCASEM_TRACKING_URL"
_SERVER = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>\d{1,5}))?"
    r"(?:(?P<sign>[:/])(?P<database>[^\s:/?.!]*)(?P<collection>\.[^\s:/?!]+)?(?P<options>\?\S*)?)?"
)
_KNOWN_HOST = re.compile(r"localhost|\d+(\.\d+){3}|\[.*\]", re.IGNORECASE)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")  # pathlib leaves one slash of two
_BROKEN_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(:/|//)")
FORMS = (
    "mongodb://[USER:PASSWORD@]HOST:PORT, HOST:PORT, HOST:PORT:DATABASE, localhost, a .json file, or a folder as "
    "./NAME or /PATH"
)


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
    """Parse an address into the kind of store that it means.

    Args:
        url: ``mongodb://…`` or ``mongodb+srv://…``; ``host:port``, ``host:port:database`` or ``host:port/database`` as
            Sacred and Omniboard have them, ``localhost`` or an IP address without a port; a JSON file ``{"url": …,
            "db_name": …}`` as incasem has them; a folder that exists, or a path that begins with ``/``, ``./``, ``../``
            or ``~`` or has a slash; or None for the environment variable ``INCASEM_TRACKING_URL`` and, where that is
            not set, ``<runs_directory>/tracking``. A ``Path`` is a folder or JSON file.
        runs_directory: The folder of training runs, home of the default store.

    Raises:
        InputError: The JSON file is missing or lacks its keys, or the text is none of these forms, has blanks or
            quotation marks in a URL, or credentials without a scheme.
    """
    text = os.path.expandvars(str(url)) if url else os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not text:
        return FolderAddress(runs_directory / "tracking")
    if "://" in text:
        return _mongo_address(text)
    if text.lower().endswith(".json"):
        return _read_json(Path(text).expanduser())
    folder = Path(text).expanduser().absolute()
    if not isinstance(url, Path) and not folder.exists() and not text.startswith(("/", "./", "../", "~")):
        if server := _server(text):
            return server
        first, slash, _ = text.partition("/")
        is_inside = slash and (Path(first).is_dir() or not re.search(r"[:.]|^localhost$", first))
        if not is_inside or _BROKEN_SCHEME.match(text):  # rather than make a folder of that name
            named = "The tracking URL" if "@" in text else text  # it may hold a password
            raise InputError(f"{named} is neither a MongoDB server nor an existing folder: give {FORMS}.")
    if folder.is_file():
        raise InputError(
            f"{folder} is a file, but runs are kept in a folder: name one, a .json file or mongodb://host."
        )
    return FolderAddress(folder)


def as_folder(text: str) -> str:
    """Return the folder that a flag names as an absolute path; ``InputError`` if it is the address of a server."""
    folder = os.path.abspath(os.path.expanduser(text))
    server = _SERVER.fullmatch(text)
    if not os.path.exists(folder) and (_SCHEME.match(text) or (server and server["port"])):
        named = "The folder of runs" if "@" in text else text
        raise InputError(
            f"{named} is the address of a server, but a folder is needed here: give it to --mongodb instead, or write "
            "./NAME for a folder."
        )
    return folder


def _server(text: str) -> MongoAddress | None:
    """Read Sacred's and Omniboard's ``host:port:database`` and the like; None if the text does not name a server."""
    found = _SERVER.fullmatch(text)
    if found is None or not (found["port"] or (_KNOWN_HOST.fullmatch(found["host"]) and found["sign"] != ":")):
        return None
    if found["port"] and not 0 < int(found["port"]) < 2**16:
        raise InputError(f"{text} has a port that is not between 1 and 65535: give {FORMS}.")
    if found["collection"] not in (None, ".runs"):
        raise InputError(
            f"{text} names the collection {found['collection'][1:]}, but runs are kept in the collection 'runs': "
            f"write {text.replace(found['collection'], '')}."
        )
    port = f":{found['port']}" if found["port"] else ""
    options = f"/{found['options']}" if found["options"] else ""
    return _mongo_address(f"mongodb://{found['host']}{port}{options}", found["database"])


def _mongo_address(url: str, database: str | None = None, what: str = "A tracking URL") -> MongoAddress:
    """Make the address of a URL with a scheme; without ``database`` the one in its path is taken."""
    scheme, _, rest = url.partition("://")
    url = f"{scheme.lower()}://{rest}"
    if scheme.lower() not in SCHEMES:
        raise InputError(f"{what} cannot start with {scheme}://: give {FORMS}.")
    if re.search(r"[\s'\"]", url):  # in a longer text its password could not be told from other words
        raise InputError(
            f"The URL {without_credentials(url)} holds blanks or quotation marks: percent-encode special characters in "
            "the user name and password, a blank as %20."
        )
    database = database or urlsplit(url).path.strip("/")
    if database in ("", "admin"):
        return MongoAddress(url)
    kind = next((kind for kind in KINDS if database.endswith(f"_{kind}")), None)
    if kind is None:
        return MongoAddress(url, database, trainings_database=database)
    return MongoAddress(url, database.removesuffix(f"_{kind}"))


def _read_json(path: Path) -> MongoAddress:
    if not path.is_file():
        raise InputError(f"The database file {path} does not exist: name one, or give mongodb://host:port instead.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    url, name = (content.get("url"), content.get("db_name")) if isinstance(content, dict) else (None, None)
    if not isinstance(url, str) or not url or not (name is None or isinstance(name, str)):
        raise InputError(
            f"The database file {path} lacks a url that can be read: write JSON of the form "
            '{"url": "localhost:27017", "db_name": "incasem_trainings"}.'
        )
    if "://" in url:
        return _mongo_address(url, name, f"The url in {path}")
    server = _server(url)
    if server is not None and not name:
        return server
    return _mongo_address(server.url if server is not None else f"mongodb://{url}", name)
