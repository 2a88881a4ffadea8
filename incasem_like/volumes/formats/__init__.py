"""Registry of storage formats; a new one is one file here and one line below."""

from __future__ import annotations

from incasem_like.volumes.formats.base import ArrayFormat, Layout
from incasem_like.volumes.formats.files import FileFormat, file_format
from incasem_like.volumes.formats.n5 import N5
from incasem_like.volumes.formats.precomputed import Precomputed
from incasem_like.volumes.formats.zarr2 import Zarr2
from incasem_like.volumes.formats.zarr3 import Zarr3

__all__ = ["FORMATS", "ArrayFormat", "FileFormat", "Layout", "file_format"]

FORMATS: dict[str, ArrayFormat] = {known.name: known for known in (Zarr2(), Zarr3(), N5(), Precomputed())}
