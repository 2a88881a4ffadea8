"""Public example data: their addresses, and their download: anonymous, resumable, verified; whole or a box of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import local
from typing import Any

from requests import RequestException, Session

from incasem_like.errors import DownloadError, InputError
from incasem_like.formatting.derive import DatasetWritten, Derivation
from incasem_like.formatting.import_volume import import_volume
from incasem_like.pretrained.downloading import base_url, digest_file
from incasem_like.pretrained.fetching import TIMEOUTS, fetched, open_session, shown_url
from incasem_like.terminal import Progress

DOCUMENTS = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", "attributes.json")
OBJECTS_AT_ONCE = 8


@dataclass(frozen=True)
class PublicData:
    """One set of public data.

    Attributes:
        source: URL of the server or bucket.
        key: Path there, of a file or of a container.
        what: What it is, for lists.
        datasets: Some of its datasets, for a box of it.
    """

    source: str
    key: str
    what: str
    datasets: tuple[str, ...]

    @property
    def is_container(self) -> bool:
        """Whether it is a folder of objects instead of one file."""
        return self.key.endswith((".zarr", ".n5"))


_CREMI = ("volumes/raw", "volumes/labels/neuron_ids")
_LISTED = {
    "fib25": PublicData(
        "s3://open-neurodata",
        "funke/fib25/training/tstvol-520-2.zarr",
        "FIB-SEM of Drosophila medulla with neurons, 8 nm",
        ("volumes/raw", "volumes/labels/neuron_ids"),
    ),
    **{
        f"cremi_{sample}": PublicData(
            "https://cremi.org",
            f"static/data/sample_{sample}_20160501.hdf",
            f"serial sections of adult Drosophila with neurons, CREMI sample {sample}, 40 x 4 x 4 nm",
            _CREMI,
        )
        for sample in "ABC"
    },
}


def find_public_data(name: str) -> PublicData:
    """Return the public data of a name: ``cell_N``, ``fib25``, ``cremi_A``, ``cremi_B`` or ``cremi_C``.

    Raises:
        InputError: The name is not known.
    """
    if re.fullmatch(r"cell_\d+", name):
        key = f"datasets/{name}/{name}.zarr"
        return PublicData("s3://asem-project", key, "FIB-SEM of a cultured cell, incasem", ("volumes/raw",))
    if name not in _LISTED:
        raise InputError(f"The data {name} are not known: name cell_N (of incasem), {', '.join(_LISTED)}.")
    return _LISTED[name]


def describe_public_data() -> list[str]:
    """Return a line for each set of public data."""
    cell = "cell_N: cells 1, 2, ... of incasem, FIB-SEM, with labels of organelles in some"
    return [cell, *(f"{name}: {data.what}" for name, data in _LISTED.items())]


@dataclass(frozen=True)
class StoredObject:
    """An object of a bucket.

    Attributes:
        key: Its key.
        size: Bytes.
        md5: MD5 in hexadecimal; None if it was uploaded in several parts.
    """

    key: str
    size: int
    md5: str | None


def list_objects(base: str, prefix: str, session: Session) -> list[StoredObject]:
    """List the objects of a public bucket whose keys begin with ``prefix``, page by page.

    Raises:
        DownloadError: The bucket cannot be reached, or does not list its objects.
    """
    found: list[StoredObject] = []
    query = {"list-type": "2", "prefix": prefix}
    while True:
        try:
            page = session.get(f"{base}/", params=query, timeout=TIMEOUTS)
            root = ElementTree.fromstring(page.content if page.status_code == 200 else b"")
        except (RequestException, ElementTree.ParseError) as error:
            raise DownloadError(
                f"{shown_url(base)} does not list its objects ({type(error).__name__}): check the network, or name a "
                "mirror with --url."
            ) from None
        names = {element.tag.rpartition("}")[2]: element.text or "" for element in root}
        for element in root:
            if element.tag.rpartition("}")[2] == "Contents":
                each = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
                tag = each.get("ETag", "").strip('"')
                md5 = tag if re.fullmatch(r"[0-9a-f]{32}", tag) else None
                found.append(StoredObject(each["Key"], int(each["Size"]), md5))
        if names.get("IsTruncated") != "true":
            return found
        query["continuation-token"] = names["NextContinuationToken"]


def download_public_data(name: str, folder: Path, source: str | None = None) -> Path:
    """Download public data whole; what is there already with the right size and content is kept.

    Every object is verified by its size, and by the MD5 or SHA-256 that the server gives. Of a container the documents
    that make arrays readable come last, so that a part of it is never taken for the whole.

    Args:
        name: See ``find_public_data``.
        folder: Where the file or container is written.
        source: URL of another server or bucket with the same keys.

    Returns:
        The file or container.

    Raises:
        InputError: The name is not known, or the server refuses access.
        DownloadError: The server does not answer, or something was damaged on the way; the same call resumes.
    """
    data = find_public_data(name)
    base = base_url(source or data.source)
    target = folder / PurePosixPath(data.key).name
    session = open_session()
    if not data.is_container:
        if not target.exists():
            _fetch_object(f"{base}/{data.key}", target, None, session)
        return target
    objects = [each for each in list_objects(base, f"{data.key}/", session) if not each.key.endswith("/")]
    if not objects:
        raise DownloadError(f"{shown_url(base)} holds nothing below {data.key}: check the name, or --url.")
    ordered = sorted(objects, key=lambda each: PurePosixPath(each.key).name in DOCUMENTS)
    first_document = sum(PurePosixPath(each.key).name not in DOCUMENTS for each in objects)
    kept = local()

    def copy(each: StoredObject) -> int:
        path = target / _inside(each.key, data.key)
        if not _is_there(path, each):
            if not hasattr(kept, "session"):
                kept.session = open_session()
            _fetch_object(f"{base}/{each.key}", path, each, kept.session)
        return each.size

    total = sum(each.size for each in objects)
    with Progress(f"Downloading {name}", total, "bytes") as progress, ThreadPoolExecutor(OBJECTS_AT_ONCE) as pool:
        for part in (ordered[:first_document], ordered[first_document:]):
            try:
                for size in pool.map(copy, part):
                    progress.advance(size)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return target


def _inside(key: str, container: str) -> str:
    path = PurePosixPath(key).relative_to(container)
    if ".." in path.parts:
        raise DownloadError(f"The bucket lists {key}, which would be written outside the container: do not use it.")
    return str(path)


def _is_there(path: Path, each: StoredObject) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == each.size
        and (each.md5 is None or digest_file(path, ["md5"])["md5"] == each.md5)
    )


def _fetch_object(url: str, target: Path, listed: StoredObject | None, session: Session) -> None:
    """Fetch one object and verify it; an interrupted one is resumed."""
    with fetched(url, target, session) as (path, origin):
        expected = dict(origin.digests)
        if listed is not None and listed.md5 is not None:
            expected["md5"] = listed.md5
        size = origin.total if listed is None else listed.size
        if size is not None and path.stat().st_size != size:
            raise DownloadError(f"{shown_url(url)} has {path.stat().st_size} bytes, not {size}: run it again.")
        found = digest_file(path, expected)
        for algorithm, value in expected.items():
            if found[algorithm] != value:
                raise DownloadError(
                    f"{shown_url(url)} was damaged on the way ({algorithm.upper()} {found[algorithm][:12]}…, not "
                    f"{value[:12]}…): run the same command again."
                )


def download_box(
    name: str,
    folder: Path,
    datasets: Sequence[str] = (),
    source: str | None = None,
    *,
    num_workers: int = 1,
    overwrite: bool = False,
    **options: Any,
) -> list[DatasetWritten]:
    """Download a box of some datasets into ``<name>.zarr``: only the chunks that it touches are fetched.

    Args:
        name: See ``find_public_data``.
        folder: Where the container is written.
        datasets: Datasets by their paths; by default those of ``PublicData.datasets``.
        source: URL of another server or bucket with the same keys.
        num_workers: Maximum number of processes.
        overwrite: Replace datasets that are there.
        **options: ``offset`` and ``shape`` of the box in absolute voxels, see ``plan_import``.

    Raises:
        InputError, DataError: As ``import_volume``.
    """
    data = find_public_data(name)
    base = base_url(source or data.source)
    container = str(folder / f"{name}.zarr")
    written = []
    for dataset in datasets or data.datasets:
        request = Derivation(
            container, dataset, dataset, num_workers=num_workers, overwrite=overwrite, out_container=container
        )
        written.append(import_volume(f"{base}/{data.key}/{dataset}", request, **options))
    return written
