"""Addresses of datasets: a container (``cell.zarr``, a URL) and the path of a dataset inside it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from incasem_like.errors import InputError

FILE_SUFFIXES = {
    "HDF5": (".h5", ".hdf5", ".hdf"),
    "MRC": (".mrc", ".mrcs", ".rec", ".st", ".ali", ".map"),
    "NIfTI": (".nii", ".nii.gz"),
}
"""Endings of single files that hold volumes."""
FOLDER_SUFFIXES = (".zarr", ".n5")
CONTAINER_SUFFIXES = FOLDER_SUFFIXES + tuple(suffix for suffixes in FILE_SUFFIXES.values() for suffix in suffixes)
REMOTE_SCHEMES = ("s3", "gs", "http", "https")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# Suffix of a dataset that selects the channel and the time point to read, such as raw@c=1 or raw@c=1,t=0.
_SELECTION = re.compile(r"@((?:[ct]=\d+)(?:,[ct]=\d+)*)/?$")
# Prefix that neuroglancer puts before the URL of a source; ignored, since the format is recognised from the data.
_VIEWER_PREFIX = re.compile(r"^(zarr[23]?|n5|precomputed)://(?=/|[a-z0-9+]+://)", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """The address of an array.

    Attributes:
        container: Absolute local path or URL of the container, without a trailing slash.
        dataset: Path of the array inside the container, ``""`` when the container is itself the array.
        selection: Axis and index of the selected channel or time point, ``(("c", 1),)``; empty when all is read.
    """

    container: str
    dataset: str = ""
    selection: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        chosen = ",".join(f"{axis}={index}" for axis, index in self.selection)
        return f"{self.location}@{chosen}" if chosen else self.location

    @property
    def location(self) -> str:
        """Local path or URL of the array, without the selection."""
        return f"{self.container}/{self.dataset}" if self.dataset else self.container

    @property
    def is_local(self) -> bool:
        """Whether the container is a folder on this machine."""
        return _SCHEME.match(self.container) is None

    def kvstore(self, path: str = "") -> dict[str, object] | str:
        """Return the TensorStore key-value store of the container, or of a folder inside it, ending in a slash.

        ``AWS_ENDPOINT_URL`` names an S3 server that is not Amazon's (MinIO, Ceph), with ``AWS_REGION``.
        """
        inside = f"{path.strip('/')}/" if path else ""
        if self.is_local:
            return {"driver": "file", "path": f"{self.container}/{inside}"}
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if endpoint and self.container.lower().startswith("s3://"):
            bucket, _, path = self.container[len("s3://") :].partition("/")
            region = os.environ.get("AWS_REGION", "us-east-1")
            whole = f"{path}/{inside}".lstrip("/")
            return {"driver": "s3", "bucket": bucket, "path": whole, "endpoint": endpoint, "aws_region": region}
        return f"{self.container}/{inside}"


def parse_address(place: str | os.PathLike[str], dataset: str | None = None) -> Address:
    """Parse ``cell.zarr/volumes/raw``, or a container and a dataset given separately.

    Both forms may end in a selection, ``raw@c=1``: the one channel (c) or time point (t) to read, counted from 0.

    Args:
        place: Local path or ``s3://``, ``gs://``, ``http(s)://``, ``file://`` URL of an array or a container.
        dataset: Path inside the container; None when ``place`` includes it.

    Raises:
        InputError: For a URL scheme that cannot be read, or a backslash, which TensorStore takes for a slash.
    """
    text = _VIEWER_PREFIX.sub("", os.fspath(place).strip())
    whole = text if dataset is None else dataset
    if chosen := _SELECTION.search(whole.strip()):
        pairs = (part.split("=") for part in chosen[1].split(","))
        rest = whole.strip()[: chosen.start()]
        address = parse_address(rest) if dataset is None else parse_address(text, rest)
        return replace(address, selection=tuple(sorted((axis, int(index)) for axis, index in pairs)))
    if text.lower().startswith("file://"):
        text = text[len("file://") :]
    scheme = _SCHEME.match(text)
    if scheme is None:
        text = Path(os.path.expandvars(text)).expanduser().absolute().as_posix()
        text = os.path.normpath(text)
    elif scheme[1].lower() not in REMOTE_SCHEMES:
        known = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
        raise InputError(f"{text} has a scheme that cannot be read: give a local path or one of {known}.")
    text = text.rstrip("/") or "/"
    if "\\" in text + (dataset or ""):
        raise InputError(f"{join(text, dataset or '')} holds a backslash: write / between folders, or rename the one.")
    if dataset is None:
        return _split(text)
    return Address(text, _normal(dataset))


def _normal(dataset: str) -> str:
    path = PurePosixPath("/" + dataset.strip().strip("/"))
    if ".." in path.parts:
        raise InputError(f"The dataset {dataset} leaves its container: give a path inside it, without '..'.")
    return str(path).strip("/")


def _split(text: str) -> Address:
    parts = text.split("/")
    ends = [index for index, part in enumerate(parts) if part.lower().endswith(FOLDER_SUFFIXES)]
    ends = ends or [index for index, part in enumerate(parts) if part.lower().endswith(CONTAINER_SUFFIXES)]
    if not ends:
        return Address(text)
    return Address("/".join(parts[: ends[-1] + 1]), _normal("/".join(parts[ends[-1] + 1 :])))


def join(*parts: str) -> str:
    """Join the parts of a key, leaving out empty ones."""
    return "/".join(part for part in parts if part)
