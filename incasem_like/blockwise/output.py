"""The output of a blockwise task: created, or opened to be resumed; the same for every script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise.done_log import held, refuse_remote
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import InputError
from incasem_like.volumes import Volume, check_outputs, create_volume, dataset_exists, open_volume, parse_address


def create_or_resume_output(
    place: str,
    dataset: str | None = None,
    *,
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    voxel_size: Sequence[float] | None,
    offset: Sequence[float] = (0, 0, 0),
    axes: str = "zyx",
    overwrite: bool = False,
    **options: Any,
) -> Volume:
    """Create an output, or open the one that an earlier call of the same command began or finished.

    Whether that call had the same parameters is checked by ``run_blockwise``.

    Args:
        place: Address of the array, or of its container.
        dataset: Path inside the container when ``place`` is the container.
        shape, dtype, voxel_size, offset, axes: As for ``create_volume``.
        overwrite: Replace an existing output instead.
        **options: Further arguments of ``create_volume``: ``chunk_shape``, ``provenance``, ``attributes`` and so on;
            they apply when the array is created.

    Raises:
        InputError: The existing array has another shape, data type, voxel size, offset or axes; or another process is
            writing the output to be replaced; or the address is remote, or an input named in ``provenance``.
    """
    address = parse_address(place, dataset)
    refuse_remote(address)
    inputs = (options.get("provenance") or {}).get("inputs", ())
    check_outputs([address], [item["address"] for item in inputs], "choose another output")
    wanted: dict[str, Any] = {
        "shape": tuple(shape),
        "axes": axes,
        "dtype": np.dtype(dtype),
        "voxel_size": None if voxel_size is None else tuple(float(size) for size in voxel_size),
        "offset": tuple(float(position) for position in offset)[-len(axes.lstrip("c")) :],
    }
    if overwrite or not dataset_exists(place, dataset):
        with held(str(address)):
            return create_volume(place, dataset, overwrite=overwrite, **wanted, **options)
    output = open_volume(place, dataset, writable=True, allow_incomplete=True)
    _refuse_difference(output, wanted)
    return output


def _refuse_difference(output: Volume, wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        found = getattr(output, name)
        same = same_voxel_size(found, value) if name == "voxel_size" and found and value else found == value
        if not same:
            said = name.replace("_", " ")
            raise InputError(
                f"{output.address} exists already with {said} {_plain(found)}, but {said} {_plain(value)} is needed: "
                "add --overwrite to replace it, or choose another name."
            )


def _plain(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
