"""Connecting to a MongoDB server, and saying in one sentence why that cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pymongo
import pymongo.errors

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.mongo.store import MongoStore

if TYPE_CHECKING:
    from pymongo.database import Database

    from incasem_like.tracking.address import MongoAddress

_AUTHENTICATION_FAILED = 18
# What a replica set has not given to most of its members it may take back when one of them fails. It says that it could
# not within a shorter time than the client waits for an answer. A server by itself takes no notice of either.
_UNLESS_THE_URL_SAYS_OTHERWISE = {
    "serverSelectionTimeoutMS": 4000,
    "connectTimeoutMS": 4000,
    "socketTimeoutMS": 20000,
    "w": "majority",
    "wTimeoutMS": 15000,
}


def connect(address: MongoAddress, kind: str, runs_directory: Path) -> MongoStore:
    """Connect to a server and make sure that it answers.

    Raises:
        InputError: The URL is malformed or the server refuses the credentials.
        StoreError: No server answers within a few seconds.
    """
    options = _options(address.url)
    try:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(address.url, **options)
        client.admin.command("ping")
    except (pymongo.errors.ConfigurationError, ValueError, TypeError):  # pymongo's own words may quote the password
        raise InputError(
            f"{address.described} is no MongoDB URL that can be used: check host and port, and percent-encode special "
            "characters in the user name and password."
        ) from None
    except pymongo.errors.OperationFailure as error:
        if error.code == _AUTHENTICATION_FAILED:
            raise InputError(
                f"{address.described} refuses the user name or password: correct them in the URL."
            ) from None
        raise StoreError(
            f"{address.described} refuses to answer (code {error.code}): check the server's log."
        ) from None
    except pymongo.errors.PyMongoError:
        raise StoreError(
            f"No MongoDB server answers at {address.described}: start it, correct the address, or give --offline to a "
            "training or prediction, which keeps the run on this machine until 'incasem-like runs sync' delivers it."
        ) from None

    def reconnect() -> Database[Any]:
        return pymongo.MongoClient(address.url, **options, maxPoolSize=1)[address.database(kind)]

    return MongoStore(
        client[address.database(kind)], kind, runs_directory, address.described, reconnect, address.database
    )


def _options(url: str) -> dict[str, Any]:
    said = {name.lower() for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    return {name: value for name, value in _UNLESS_THE_URL_SAYS_OTHERWISE.items() if name.lower() not in said}
