"""Open the graph store that an address names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from incasem_like.config.target_sections import load
from incasem_like.errors import InputError
from incasem_like.graphs.store import GraphStore

# Addresses of the classes, since each loads a slow library.
FILES = "incasem_like.graphs.parquet:ParquetGraph"
STORES: dict[str, str] = {
    "mongodb": "incasem_like.graphs.mongo:MongoGraph",
    "mongodb+srv": "incasem_like.graphs.mongo:MongoGraph",
    "sqlite": "incasem_like.graphs.sql:SqlGraph",
    "postgresql": "incasem_like.graphs.sql:SqlGraph",
}


def open_graph(address: str | Path, scoring: str = "") -> GraphStore:
    """Open a graph store; a database is connected when it is used first.

    Args:
        address: A folder of Parquet files, or the URL of a database. ``$NAME`` and ``${NAME}`` in a URL are variables
            of the environment.
        scoring: Scoring function of the edges.

    Raises:
        InputError: The database is of an unknown kind, or a variable is not set.

    >>> open_graph("sqlite:///graph.db", "mean").edges
    'edges_mean'
    """
    text = os.fspath(address)
    if "://" not in text:
        files: GraphStore = load(FILES)(Path(text), scoring)
        return files
    check_graph_url(text)
    url = os.path.expandvars(text)
    if missing := re.search(r"\$\{?(\w+)", url):
        raise InputError(f"The graph store {text} needs the environment variable {missing[1]}: set it.")
    database: GraphStore = load(STORES[_kind(text)])(url, scoring)
    return database


def check_graph_url(url: str) -> None:
    """Check the URL of a graph store, without connecting to it.

    Raises:
        InputError: The kind of database is unknown, or the URL contains a password, which records would show.
    """
    if _kind(url) not in STORES:
        known = f"{_kind(url)}://" if "://" in url else url
        raise InputError(f"Unknown graph store {known}: use {', '.join(f'{kind}://' for kind in STORES)}.")
    password = urlsplit(url).password
    if password and not password.startswith("$"):
        raise InputError(
            "The URL of the graph store contains a password, which the record of the run would show: write the name of "
            "an environment variable instead, such as mongodb://me:$GRAPH_PASSWORD@host/database."
        )


def _kind(url: str) -> str:
    return url.partition("://")[0].partition("+psycopg")[0]
