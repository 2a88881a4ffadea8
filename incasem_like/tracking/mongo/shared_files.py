"""Sources and resources that runs in a database share: each is stored once, and goes with the last run that names it.

A run that starts may find a file stored and name it while another process deletes the last run that needed it. So the
file is marked before it is asked who names it, and who names one looks afterwards whether it is there and unmarked:
whichever came first, one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.summaries import as_sequence

if TYPE_CHECKING:
    import gridfs
    from pymongo.database import Database

_DOOMED = "doomed"  # of a file in fs.files
_ATTEMPTS_TO_NAME = 5


class StoredWithRuns(NamedTuple):
    """A source or resource: its name, what runs name it by, and the id of its file, None where that is missing."""

    name: str
    key: Any
    file_id: Any


def keep(database: Database[Any], files: gridfs.GridFS, filename: str, md5: str, read: Callable[[], bytes]) -> Any:
    """Store a file unless it is there, known by its path and content; gives its id.

    Sacred looks for files by an MD5 that today's GridFS does not keep, and so stores every source with every run.
    """
    unmarked = {"filename": filename, "md5": md5, _DOOMED: {"$exists": False}}
    found = database["fs.files"].find_one(unmarked, {"_id": 1})
    return files.put(read(), filename=filename, md5=md5) if found is None else found["_id"]


def name_in_run(
    database: Database[Any], run_id: int, named: Mapping[str, list[Any]], keep_again: Callable[[], dict[str, list[Any]]]
) -> Mapping[str, list[Any]]:
    """Make sure that what a run has just named is there to stay, and name what had to be stored again.

    Args:
        database: Of the run.
        run_id: The run, whose document names the files already.
        named: Pairs of name and file id, by field of the document.
        keep_again: Keeps those files again, and gives what to name now.

    Returns:
        What the document names in the end.
    """
    for _ in range(_ATTEMPTS_TO_NAME):
        ids = [key for pairs in named.values() for _, key in pairs if not isinstance(key, str)]
        safe = database["fs.files"].count_documents({"_id": {"$in": ids}, _DOOMED: {"$exists": False}})
        if safe == len(set(ids)):
            break
        named = keep_again()
        database["runs"].update_one({"_id": run_id}, {"$set": dict(named)})
    return named


def stored_files(database: Database[Any], document: Mapping[str, Any]) -> Iterator[StoredWithRuns]:
    """Find the files of a run's sources and resources, which runs may share.

    Of a resource Sacred notes path and MD5, or no MD5 at all, rather than the file's id.
    """
    for name, key in named_pairs(document):
        if isinstance(key, str) or key is None:
            found = database["fs.files"].find_one({"filename": name}, {"_id": 1})
            yield StoredWithRuns(str(name), name, None if found is None else found["_id"])
        else:
            yield StoredWithRuns(str(name), key, key)


def free_files(database: Database[Any], files: gridfs.GridFS, file_ids: Iterable[Any]) -> Freed:
    """Delete files of GridFS; what is gone already is passed over."""
    freed = Freed()
    for file_id in set(file_ids) - {None}:
        entry = database["fs.files"].find_one({"_id": file_id}, {"length": 1})
        files.delete(file_id)
        if entry is not None:
            freed += Freed(artifacts=1, bytes=int(entry.get("length") or 0))
    return freed


def free_unnamed(
    database: Database[Any], files: gridfs.GridFS, shared: Mapping[Any, Any], apart_from: int | None = None
) -> Freed:
    """Delete those of some shared files that no run names.

    Args:
        database: Of the runs.
        files: Its GridFS.
        shared: What runs name each file by, by its id.
        apart_from: The run whose word does not count.
    """
    database["fs.files"].update_many({"_id": {"$in": list(shared)}}, {"$set": {_DOOMED: True}})
    needed = named_by_runs(database, shared.values(), apart_from)
    spared = [file_id for file_id, key in shared.items() if key in needed]
    database["fs.files"].update_many({"_id": {"$in": spared}}, {"$unset": {_DOOMED: ""}})
    return free_files(database, files, shared.keys() - set(spared))


def named_by_runs(database: Database[Any], keys: Iterable[Any], apart_from: int | None = None) -> set[Any]:
    """Find those of some sources and resources, by id or path, that runs name.

    Each question asks for all that are left: runs share most of their sources, and no index answers it.
    """
    left, found, asked = set(keys), set(), [apart_from]
    while left:
        among = {"$elemMatch": {"$elemMatch": {"$in": list(left)}}}
        query = {"$or": [{"experiment.sources": among}, {"resources": among}], "_id": {"$nin": asked}}
        run = database["runs"].find_one(query, {"experiment.sources": 1, "resources": 1})
        if run is None:
            break
        asked.append(run["_id"])
        words = [word for pair in named_pairs(run) for word in pair]
        named = {key for key in left if key in words}
        found |= named
        left -= named
    return found


def named_pairs(document: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Go through what a run says of its sources and resources: name, and id or path."""
    experiment = document.get("experiment")
    sources = experiment.get("sources") if isinstance(experiment, Mapping) else None
    for pair in (*as_sequence(sources), *as_sequence(document.get("resources"))):
        if isinstance(pair, (list, tuple)) and len(pair) == 2:
            yield pair[0], pair[1]
