"""The attributes in which other programs store voxel size, offset and axes, each as a ``Statement``.

Unless noted otherwise, lists follow the axes of the array's index (z, y, x), in an N5 reversed (x, y, z).
"""

from __future__ import annotations

import re
from typing import Any

from incasem_like.volumes.geometry import exact
from incasem_like.volumes.space import Statement

Document = dict[str, Any]


def attribute_statements(attributes: Document, n5: bool = False) -> list[Statement]:
    """Return the statements of an array's attributes, in order of precedence.

    - ``resolution``, ``offset`` (incasem, daisy, Paintera): in nm unless ``units`` names another unit.
    - ``voxel_size``, ``offset``, ``units``, ``axis_names``, ``types`` (funlib.persistence, gunpowder): in the order of
      the index also in an N5. Without ``units``, as older versions wrote them, nm.
    - ``transform`` (OpenOrganelle): names its axes.
    - ``pixelResolution``, ``downsamplingFactors`` (n5-viewer, BigDataViewer): always x, y, z, of the full resolution;
      a bare list is in micrometres.
    """
    given = attributes.get
    found = []
    funlib = "voxel_size" in attributes and "resolution" not in attributes
    if "resolution" in attributes or (not funlib and "offset" in attributes):
        key = "resolution" if "resolution" in attributes else "offset"
        found.append(Statement(key, None, None, given("resolution"), given("offset"), given("units"), "nm"))
    if "axis_names" in attributes or "voxel_size" in attributes:
        names, types, size, offset, units = (
            value[::-1] if n5 and isinstance(value, list) else value
            for value in map(given, ("axis_names", "types", "voxel_size", "offset", "units"))
        )
        key = "voxel_size" if "voxel_size" in attributes else "axis_names"
        found.append(
            Statement(key, names, types, size, offset if funlib else None, units, "nm", warns="units" not in attributes)
        )
    transform = given("transform")
    if isinstance(transform, dict):
        found.append(transform_statement(transform, "transform", ordered=not n5))
    factors = None if isinstance(transform, dict) else given("downsamplingFactors")
    return found + pixel_statement(attributes, "pixelResolution", factors)


def transform_statement(transform: Document, key: str, ordered: bool) -> Statement:
    """Return the statement of an OpenOrganelle ``transform``."""
    get = transform.get
    return Statement(key, get("axes"), None, get("scale"), get("translate"), get("units"), ordered=ordered)


def pixel_statement(attributes: Document, key: str, factors: Any = None) -> list[Statement]:
    """Return the statement of ``pixelResolution``, times the factors of a scale level; nothing if it is missing."""
    pixel = attributes.get("pixelResolution")
    if pixel is None:
        return []
    bare = not isinstance(pixel, dict)
    size, unit = (pixel, None) if bare else (pixel.get("dimensions"), pixel.get("unit"))
    convention = "um" if bare else None
    return [Statement(key, _xyz(size), None, _times(size, factors), None, unit, convention, warns=bare, ordered=False)]


def level_statements(group: Document, level: str, factors: Any, where: str) -> list[Statement]:
    """Return the statements of an N5 group about one of its scale levels (BigDataViewer, Paintera, n5-viewer).

    Args:
        group: Attributes of the group: ``resolution`` or ``pixelResolution`` of the full resolution, ``offset``, and
            ``scales`` or ``downsamplingFactors`` with the factors of each level.
        level: Name of the array, ``s0``, ``s1`` and so on.
        factors: ``downsamplingFactors`` of the array itself, if any.
        where: The group's file. BigDataViewer keeps the unit of ``resolution`` elsewhere, in an XML.
    """
    number = re.fullmatch(r"s(\d+)", level)
    if factors is None and number:
        levels = group.get("downsamplingFactors", group.get("scales"))
        if isinstance(levels, list) and int(number[1]) < len(levels):
            factors = levels[int(number[1])]
        elif number[1] == "0":
            factors = [1, 1, 1]
    if factors is None:
        return []
    size, offset = group.get("resolution"), group.get("offset")
    found = pixel_statement(group, f"pixelResolution of {where}", factors)
    if size is not None:
        convention = None if re.search(r"setup\d+/timepoint\d+", where) else "nm"
        key, units = f"resolution of {where}", group.get("units")
        found.append(Statement(key, _xyz(size), None, _times(size, factors), offset, units, convention, ordered=False))
    return found


def _xyz(values: Any) -> list[str] | None:
    return list("xyzct"[: len(values)]) if isinstance(values, list) else None


def _times(values: Any, factors: Any) -> Any:
    """Multiply elementwise; values that cannot be multiplied are left for ``resolve_space`` to reject."""
    if not (isinstance(values, list) and isinstance(factors, list)):
        return values
    try:
        return [float(exact(a) * exact(b)) for a, b in zip(values, factors, strict=False)]
    except (TypeError, ValueError):
        return values
