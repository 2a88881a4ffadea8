"""The scale levels of a group or of a precomputed volume, from the finest."""

from __future__ import annotations

import re
from dataclasses import replace
from math import prod

from incasem_like.errors import DataError
from incasem_like.volumes import ome
from incasem_like.volumes.address import Address, join
from incasem_like.volumes.formats import file_format
from incasem_like.volumes.opening import Place, describe_missing, find_array, list_datasets, locate, open_volume
from incasem_like.volumes.store import Documents


def find_levels(place: Place) -> list[Address]:
    """Return the addresses of the scale levels at an address: the array itself, or the arrays of a group.

    Levels are those that the group's OME-NGFF metadata list, the scales of a precomputed volume, or else the arrays
    directly below the group with names that differ in a number alone (``s0``, ``s1``).

    Raises:
        DataError: The array is missing, or the group holds other things than levels.
    """
    address = locate(place)
    found = find_array(address)
    if found is not None:
        format_, documents = found
        scales = documents["info"]["scales"] if format_.name == "precomputed" else []
        keys = [scale["key"] for scale in sorted(scales, key=lambda scale: prod(scale["resolution"]))]
        return [replace(address, dataset=key) for key in keys] if len(keys) > 1 else [address]
    store = Documents(address)
    for file in (".zattrs", "zarr.json") if file_format(address) is None else ():
        document = store.read(join(address.dataset, file)) or {}
        attributes = document.get("attributes", {}) if file == "zarr.json" else document
        for image in ome.images(attributes):
            if len(names := ome.paths(image)) > 1:
                return [replace(address, dataset=join(address.dataset, name)) for name in names]
    inside = f"{address.dataset}/" if address.dataset else ""
    names = [name for name in list_datasets(replace(address, dataset="", selection=())) if name.startswith(inside)]
    forms = {re.sub(r"\d+", "#", name) for name in names}
    if not names or len(forms) > 1:
        raise DataError(describe_missing(address))
    levels = [replace(address, dataset=name) for name in names]
    return sorted(levels, key=lambda level: -prod(open_volume(level).spatial_shape))
