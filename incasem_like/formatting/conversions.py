"""Value conversions on import: named conversions, inversion, lossless change of data type."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.section_file import Pixels
from incasem_like.terminal import nearest
from incasem_like.volumes.values import foreground

Array = npt.NDArray[Any]
IMPORT_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


@dataclass(frozen=True)
class Conversion:
    """Conversion of the values of one image sequence to those of one dataset.

    Attributes:
        dtype: Data type to store.
        name: A key of ``CONVERSIONS`` (with a value: ``RelabelTo:VALUE``), or None.
        invert: Replace every value v by max - v, with the maximum of the file's bit depth, or of ``dtype`` if smaller.
        source: Folder that the sections come from; what ``RelabelToUid`` hashes.
    """

    dtype: str
    name: str | None = None
    invert: bool = False
    source: str = ""

    @property
    def takes_colours(self) -> bool:
        """Whether grey values are computed from colours."""
        return self.name in ("RgbToGray", "RgbToGrayInversion")

    def check(self, pixels: Pixels, labels: bool = False) -> None:
        """Check that the conversion suits the images before anything is read.

        Args:
            pixels: Pixel type of the sections.
            labels: Whether the sections are labels, so that the indices of a colour map are their values.

        Raises:
            InputError: Unknown type or conversion, or one that does not suit the other or the images.
        """
        self.check_type()
        kind = (self.name or "").partition(":")[0]
        if pixels.colours > 1 and not self.takes_colours:
            raise InputError(
                f"The sections have {pixels.colours} colour channels: give --conversion RgbToGray or "
                "RgbToGrayInversion, or export them as grey images."
            )
        if pixels.colour_map and self.name is None and not labels:
            raise InputError(
                "The sections have a colour map: give --conversion RgbToGray for the grey values that a viewer shows, "
                "or ColourMapIndices for the stored numbers."
            )
        if self.takes_colours and (pixels.dtype not in ("uint8", "uint16")):
            raise InputError(
                f"{kind} takes images of 8 or 16 bits, but these hold {pixels.dtype}: leave it out for grey values, "
                "or export colours with 8 bits."
            )
        if labels and np.dtype(self.dtype).kind != "u":
            raise InputError(
                f"The sections are labels, which are unsigned integers, but --dtype is {self.dtype}: use uint32."
            )

    def check_type(self) -> None:
        """Check that the data type and the conversion are known and suit each other.

        Raises:
            InputError: They do not.
        """
        if self.dtype not in IMPORT_DTYPES:
            raise InputError(
                f"--dtype {self.dtype} is not known{nearest(self.dtype, IMPORT_DTYPES)}: "
                f"choose one of {', '.join(IMPORT_DTYPES)}."
            )
        kind = (self.name or "").partition(":")[0]
        if self.name is not None and kind not in CONVERSIONS:
            raise InputError(
                f"--conversion {self.name} is not known{nearest(kind, list(CONVERSIONS))}: "
                f"choose one of {', '.join(CONVERSIONS)}."
            )
        if kind == "RelabelTo":
            self._label()
        if kind == "RelabelToUid" and self.dtype not in ("uint32", "uint64"):
            raise InputError(
                f"RelabelToUid needs room for its numbers, but --dtype is {self.dtype}: use uint32 or uint64."
            )
        if self.invert and np.dtype(self.dtype).kind != "u":
            raise InputError(
                f"--invert works on unsigned integers, but --dtype is {self.dtype}: leave one of them out."
            )

    def apply(self, values: Array, where: str, bits: int = 64) -> Array:
        """Convert a section, ``(y, x)`` or ``(y, x, 3)``.

        Args:
            values: The section.
            where: Names the file in an error.
            bits: Bits per sample in the file.

        Raises:
            DataError: A value does not fit the type.
        """
        if self.name is not None:
            values = CONVERSIONS[self.name.partition(":")[0]](values, self)
        if self.name == "RgbToGrayInversion":
            values = _inverted(values, bits)
        converted = cast_exactly(values, np.dtype(self.dtype), where)
        return _inverted(converted, bits) if self.invert else converted

    def _label(self) -> int:
        """The value of ``RelabelTo:VALUE``."""
        text = (self.name or "").partition(":")[2]
        kind = np.dtype(self.dtype)
        if not text.isdecimal() or (kind.kind in "ui" and int(text) > np.iinfo(kind).max):
            raise InputError(f"--conversion {self.name} needs a label that {self.dtype} can hold, such as RelabelTo:1.")
        return int(text)


def cast_exactly(values: Array, dtype: np.dtype[Any], where: str) -> Array:
    """Convert the data type without changing any value.

    Raises:
        DataError: Names ``where`` and the first kind of value that does not fit.
    """
    if values.dtype == dtype or values.size == 0:
        return values.astype(dtype, copy=False)
    if dtype.kind in "ui":
        if values.dtype.kind == "f":
            broken = values[~(np.isfinite(values) & (values == np.rint(values)))]
            if broken.size:
                raise DataError(_lossy(where, broken[0], dtype, "float32"))
        limits, low, high = np.iinfo(dtype), values.min(), values.max()
        for value in (low, high):
            if not limits.min <= int(value) <= limits.max:
                raise DataError(
                    _lossy(
                        where,
                        value,
                        dtype,
                        str(np.result_type(np.min_scalar_type(int(low)), np.min_scalar_type(int(high)))),
                    )
                )
    converted = values.astype(dtype)
    if dtype.kind == "f" and values.dtype.itemsize >= dtype.itemsize:
        changed = values[(converted.astype(np.float64) != values) & (values == values)]
        if changed.size:
            raise DataError(_lossy(where, changed[0], dtype, values.dtype.name))
    return converted


def _lossy(where: str, value: object, dtype: np.dtype[Any], better: str) -> str:
    return f"{where} holds the value {value}, which {dtype} cannot hold: give --dtype {better}, or rescale the images."


def _inverted(values: Array, bits: int) -> Array:
    top = min(2**bits - 1, int(np.iinfo(values.dtype).max))
    return np.asarray(values.dtype.type(top) - values)


def _rgb_to_grey(values: Array, conversion: Conversion) -> Array:
    """Convert colours to luma (ITU-R 601-2, as Pillow's ``L``); grey values stay unchanged."""
    if values.ndim == 2:
        return values
    weighted = values.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return np.asarray(((weighted + 0x8000) >> 16).astype(values.dtype))


def _relabel_to(values: Array, conversion: Conversion) -> Array:
    """Replace every nonzero value by one label."""
    return foreground(values, conversion.source or "The image") * np.uint64(conversion._label())


def _relabel_to_uid(values: Array, conversion: Conversion) -> Array:
    """Replace every nonzero value by a hash of the folder's path, the same in every run."""
    uid = np.uint64(path_uid(conversion.source, conversion.dtype))
    return foreground(values, conversion.source or "The image") * uid


def path_uid(path: str, dtype: str) -> int:
    """Return the BLAKE2b hash of an absolute path as a number from 1 to the maximum of the type."""
    digest = hashlib.blake2b(str(Path(path).absolute()).encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "big") % int(np.iinfo(dtype).max)


CONVERSIONS: dict[str, Callable[[Array, Conversion], Array]] = {
    "RgbToGray": _rgb_to_grey,
    "RgbToGrayInversion": _rgb_to_grey,
    "ColourMapIndices": lambda values, conversion: values,
    "RelabelTo": _relabel_to,
    "RelabelToUid": _relabel_to_uid,
}
