"""Public example data: their addresses, and their download: anonymous, resumable, verified; whole or a box of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import local
from typing import Any

from incasem_like.errors import DownloadError, InputError
from incasem_like.formatting.derive import DatasetWritten, Derivation
from incasem_like.formatting.import_volume import import_volume
from incasem_like.pretrained.fetching import (
    StoredObject,
    base_url,
    fetched,
    holds,
    list_objects,
    open_session,
    shown_url,
)
from incasem_like.terminal import Progress

DOCUMENTS = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json", "attributes.json")
OBJECTS_AT_ONCE = 8
_CREMI = ("volumes/raw", "volumes/labels/neuron_ids")


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
    """Return the public data of a name: ``cell_N``, ``fib25``, ``cremi_A``, ``cremi_B`` or ``cremi_C``."""
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


def download_public_data(name: str, folder: Path, source: str | None = None) -> Path:
    """Download public data whole; what is there already with the right size and content is kept.

    Every object is verified by its size, and by the MD5 if the server gives one. Of a container the documents
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
            with fetched(f"{base}/{data.key}", target, session):
                pass
        return target
    objects = [each for each in list_objects(base, f"{data.key}/", session) if not each.key.endswith("/")]
    if not objects:
        raise DownloadError(f"{shown_url(base)} holds nothing below {data.key}: check the name, or --url.")
    own = local()

    def copy(each: StoredObject) -> int:
        inside = PurePosixPath(each.key).relative_to(data.key)
        if ".." in inside.parts:
            raise DownloadError(f"The bucket lists {each.key}, which is outside the container: do not use it.")
        if not holds(target / inside, each):
            with fetched(f"{base}/{each.key}", target / inside, own.session, each):
                pass
        return each.size

    total = sum(each.size for each in objects)
    pool = ThreadPoolExecutor(OBJECTS_AT_ONCE, initializer=lambda: setattr(own, "session", open_session()))
    with Progress(f"Downloading {name}", total, "bytes") as progress, pool:
        try:
            for documents in (False, True):
                part = [each for each in objects if (PurePosixPath(each.key).name in DOCUMENTS) == documents]
                for size in pool.map(copy, part):
                    progress.advance(size)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return target


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
    """
    data, container = find_public_data(name), str(folder / f"{name}.zarr")
    base = base_url(source or data.source)
    common: dict[str, Any] = {"num_workers": num_workers, "overwrite": overwrite, "out_container": container}
    return [
        import_volume(f"{base}/{data.key}/{dataset}", Derivation(container, dataset, dataset, **common), **options)
        for dataset in datasets or data.datasets
    ]
