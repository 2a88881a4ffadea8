"""Connecting to a MongoDB server, and saying in one sentence why that cannot be done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo
import pymongo.errors

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking.mongo.store import MongoStore

if TYPE_CHECKING:
    from pymongo.database import Database

    from incasem_like.tracking.address import MongoAddress

_AUTHENTICATION_FAILED = 18
_TIMEOUTS_MS = {"serverSelectionTimeoutMS": 4000, "connectTimeoutMS": 4000, "socketTimeoutMS": 20000}


def connect(address: MongoAddress, kind: str, runs_directory: Path) -> MongoStore:
    """Connect to a server and make sure that it answers.

    Raises:
        InputError: The URL is malformed or the server refuses the credentials.
        StoreError: No server answers within a few seconds.
    """
    timeouts = {name: value for name, value in _TIMEOUTS_MS.items() if name.lower() not in address.url.lower()}
    try:
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(address.url, **timeouts)
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
        return pymongo.MongoClient(address.url, **timeouts, maxPoolSize=1)[address.database(kind)]

    return MongoStore(
        client[address.database(kind)], kind, runs_directory, address.described, reconnect, address.database
    )
