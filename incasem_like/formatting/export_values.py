"""How stored values become the values of an exported image, without losing any silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError

Array = npt.NDArray[Any]
Conversion = Callable[[Array], Array]

EXPORT_DTYPES = ("uint8", "uint16", "uint32", "float32")
LARGEST_EXACT_FLOAT32 = 2**24


def conversion_to(
    dtype: str | None, source: np.dtype[Any], scale: float | None = None
) -> tuple[np.dtype[Any], Conversion]:
    """Find how values change on their way into a TIFF, without ever losing any silently.

    Integers become other integers unchanged. Floats, which must be probabilities in [0, 1], become unsigned integers
    over the whole range (x255 for uint8), rounded. Integers become float32 divided by ``scale``, unchanged without.

    Args:
        dtype: One of ``EXPORT_DTYPES``, or None for the dtype of the data.
        source: The dtype of the data.
        scale: What stored integers were multiplied with (255 for uint8 probabilities).

    Returns:
        The dtype of the result and the function from stored to exported values, which raises DataError on a value
        that does not fit.
    """
    kept = {"bool": "uint8", "float16": "float32"}.get(source.name, source.name)
    target: np.dtype[Any] = np.dtype(dtype or kept)
    if target == source:
        return target, lambda values: values
    if target.kind == "f":
        divisor = scale if scale and source.kind in "ui" else 1.0
        return target, lambda values: _as_float(values, divisor, target)
    if source.kind == "f":
        return target, lambda values: _spread(values, target)
    return target, lambda values: _as_integer(values, target)


def _as_float(values: Array, divisor: float, target: np.dtype[Any]) -> Array:
    if values.dtype.kind in "ui" and values.size and int(values.max()) > LARGEST_EXACT_FLOAT32:
        raise DataError(f"The data hold {values.max()}, which {target} cannot hold exactly: export without --dtype.")
    return (values / divisor).astype(target) if divisor != 1 else values.astype(target)


def _spread(values: Array, target: np.dtype[Any]) -> Array:
    least, greatest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (least >= 0 and greatest <= 1):
        raise DataError(
            f"Only values in [0, 1] convert to {target}, but the data hold {least:g} to {greatest:g}: "
            "export without --dtype."
        )
    return np.rint(values.astype(np.float64) * np.iinfo(target).max).astype(target)


def _as_integer(values: Array, target: np.dtype[Any]) -> Array:
    limits = np.iinfo(target)
    if values.size and values.dtype.kind != "b":
        for found in (int(values.min()), int(values.max())):
            if not limits.min <= found <= limits.max:
                raise DataError(f"The data hold {found}, which {target} cannot hold: choose a wider --dtype or none.")
    return values.astype(target)
