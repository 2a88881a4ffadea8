"""Position of an array in world units: its metadata resolved to one voxel size, offset and axis order.

Every format and writer has its own keys. Each key becomes a ``Statement``; ``resolve_space`` compares them. The array's
own attributes come before those of the groups above it. Of several keys the first that states a value is used; a later
one that contradicts it is reported. Axis orders that contradict each other are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import DataError
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.geometry import exact
from incasem_like.volumes.units import is_no_unit, nanometres_in

_SYNONYMS = {"channel": "c", "channels": "c", "time": "t"}
# Default names that libraries give to unnamed axes: d0, dim_1, phony_dim_2.
_NOT_NAMED = re.compile(r"((d|axis|dim|phony_dim)_?)?\d*")


@dataclass(frozen=True)
class Space:
    """Position of an array in world units, according to its metadata.

    Attributes:
        voxel_size: (z, y, x) in nm, None when unknown.
        offset: (z, y, x) in nm, None when unknown.
        axes: Letter of each axis in TensorStore's order.
    """

    voxel_size: tuple[float, ...] | None
    offset: tuple[float, ...] | None
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Statement:
    """Content of one key of the metadata; its lists follow the axes.

    Attributes:
        key: Name of the key and, for a key of a group, of its file.
        names: Names of the axes, None where the key names none.
        types: ``"space"``, ``"channel"`` or ``"time"``, where given.
        scale: Voxel size; one number per axis, per non-channel axis, or per spatial axis. ``offset`` likewise.
        units: One unit for each of these numbers, or one for all.
        convention: Unit of numbers without a unit; None: such numbers are ignored.
        warns: Whether to warn that the convention was used.
        ordered: Whether ``names`` are in the order of the array, not only in that of the numbers.
    """

    key: str
    names: Any = None
    types: Any = None
    scale: Any = None
    offset: Any = None
    units: Any = None
    convention: str | None = None
    warns: bool = False
    ordered: bool = True


def resolve_space(statements: Sequence[Statement], default_axes: tuple[str, ...], where: str) -> Space:
    """Resolve statements to one voxel size, offset and axis order.

    Args:
        statements: Statements in order of precedence.
        default_axes: Letters of the axes when no statement names them; their number is the array's.
        where: Address of the array, for messages.

    Raises:
        DataError: A statement cannot be understood, or two name the axes differently.
    """
    axes = _resolve_axes(statements, default_axes, where)
    letters = [letter for letter in "zyx" if letter in axes]
    sizes: list[tuple[str, tuple[float, ...]]] = []
    offsets: list[tuple[str, tuple[float, ...]]] = []
    unitless: dict[str, tuple[str, tuple[float, ...]]] = {}
    for statement in statements:
        own = axes if statement.ordered else _letters(statement, default_axes, where) or axes
        for what, values, found in (("size", statement.scale, sizes), ("offset", statement.offset, offsets)):
            if values is None:
                continue
            named = what == "offset" and statement.key in ("resolution", "voxel_size", "axis_names")
            stated = replace(statement, key="offset") if named else statement
            lengths, in_nm = _lengths(stated, values, own, letters, where)
            if what == "size" and min(lengths, default=1) <= 0:
                raise DataError(
                    f"{where} has the voxel size {values} in {statement.key}: correct it, it must be positive."
                )
            if in_nm:
                found.append((statement.key, lengths))
            elif any(length != (what == "size") for length in lengths):  # 1 and 0 are defaults
                unitless.setdefault(what, (statement.key, lengths))
    if not sizes and "size" in unitless:
        warn_once(f"{where} has numbers without a unit in {unitless['size'][0]}, so its voxel size is unknown.")
    if not offsets and "offset" in unitless:
        if sizes:
            raise DataError(f"{where} has an offset without a unit in {unitless['offset'][0]}: add the unit there.")
        offsets.append(unitless["offset"])  # unusable while the voxel size is unknown, but not 0
    for key, lengths in sizes[1:]:
        if not same_voxel_size(lengths, sizes[0][1]):
            _warn_contradiction(where, "voxel size", sizes[0], (key, lengths))
    for key, lengths in offsets[1:] if sizes else []:
        if any(abs(a - b) > size / 1000 for a, b, size in zip(lengths, offsets[0][1], sizes[0][1], strict=True)):
            _warn_contradiction(where, "offset", offsets[0], (key, lengths))
    return Space(sizes[0][1] if sizes else None, offsets[0][1] if offsets else None, axes)


def _warn_contradiction(where: str, what: str, used: tuple[str, Sequence[float]], other: Any) -> None:
    told = [f"{[float(f'{nm:.6g}') for nm in lengths]} nm in {key}" for key, lengths in (used, other)]
    warn_once(f"{where} has the {what} {told[0]}, but {told[1]}: the first is used; correct the wrong one.")


def _resolve_axes(statements: Sequence[Statement], default_axes: tuple[str, ...], where: str) -> tuple[str, ...]:
    named = []
    for statement in statements:
        letters = _letters(statement, default_axes, where) if statement.ordered else None
        if letters is None:
            continue
        if len(letters) != len(default_axes):
            raise DataError(
                f"{where} has {len(default_axes)} axes, but {statement.key} names {len(letters)} "
                f"({', '.join(letters)}): correct it."
            )
        says_order = any(str(name).strip().lower() in ("z", "y", "x") for name in statement.names)  # dim_0 does not
        named.append((not says_order, statement.key, letters))
    named.sort(key=lambda found: found[0])
    for no_order, key, letters in named[1:]:
        if not no_order and letters != named[0][2]:
            raise DataError(
                f"{where} has the axes {', '.join(named[0][2])} in {named[0][1]}, but {', '.join(letters)} in {key}: "
                "correct the wrong one."
            )
    return named[0][2] if named else default_axes


def _letters(statement: Statement, default_axes: tuple[str, ...], where: str) -> tuple[str, ...] | None:
    """Return the letters of a statement's axes (t, c, z, y or x), None when it does not name them."""
    names = statement.names
    if names is None:
        return None
    if not isinstance(names, list | tuple) or any(not isinstance(name, str | None) for name in names):
        raise DataError(f"{where} has axis names in {statement.key} that cannot be understood: {names}; correct them.")
    types = statement.types if isinstance(statement.types, list) and len(statement.types) == len(names) else ()
    kinds = [str(kind).lower() for kind in types] or [""] * len(names)
    letters = [_letter(name or "", kind) for name, kind in zip(names, kinds, strict=True)]
    spatial = [letter for letter in letters if letter not in ("c", "t")]
    if spatial and not any(spatial):
        names_of_space = iter([letter for letter in default_axes if letter in "zyx"][-len(spatial) :])
        letters = [letter or next(names_of_space, "") for letter in letters]
    wrong = [name for name, letter in zip(names, letters, strict=True) if letter not in ("t", "c", "z", "y", "x")]
    if wrong or len(set(letters)) != len(letters):
        raise DataError(
            f"{where} has the axes {', '.join(map(str, names))} in {statement.key}, but only z, y, x, one axis c of "
            "channels and one axis t of time are read: rename them there."
        )
    return tuple(letters)


def _letter(name: str, kind: str) -> str:
    text = name.strip().lower()
    if kind in ("channel", "time"):
        return kind[0]
    if text.endswith("^"):  # funlib.persistence marks channels like this
        return "c"
    return "" if _NOT_NAMED.fullmatch(text) else _SYNONYMS.get(text, text)


def _lengths(
    statement: Statement, values: Any, axes: Sequence[str], letters: Sequence[str], where: str
) -> tuple[tuple[float, ...], bool]:
    """Return the numbers of a statement for z, y and x, and whether they are in nm: False when they have no unit."""
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    ):
        raise DataError(f"{where} has {values!r} in {statement.key}, but numbers are needed: correct it.")
    numbers = _along(axes, values, statement, where)
    single = isinstance(statement.units, str) or statement.units is None
    units = {} if single else _along(axes, statement.units, statement, where)
    if set(letters) - set(numbers):
        raise DataError(f"{where} has the axes {', '.join(letters)}, but {statement.key} only {', '.join(numbers)}.")
    lengths = []
    for letter in letters:
        unit = statement.units if single else units.get(letter)
        if is_no_unit(unit):
            if unit is not None or statement.convention is None:
                return tuple(float(numbers[other]) for other in letters), False
            unit = statement.convention
            if statement.warns:
                warn_once(f"{where} has {statement.key} without a unit: it is read as {unit}.")
        factor = nanometres_in(unit)
        if factor is None:
            raise DataError(
                f"{where} has the unit {unit!r} in {statement.key}, which is not a known unit of length: correct it."
            )
        lengths.append(float(exact(numbers[letter]) * factor))
    return tuple(lengths), True


def _along(axes: Sequence[str], values: Any, statement: Statement, where: str) -> dict[str, Any]:
    """Return the value of each axis; values are given for all axes, the non-channel axes or the spatial axes."""
    spatial = [letter for letter in axes if letter in "zyx"]
    for letters in (axes, [letter for letter in axes if letter != "c"], spatial):
        if isinstance(values, list | tuple) and len(values) == len(letters):
            return dict(zip(letters, values, strict=True))
    raise DataError(
        f"{where} has {values!r} in {statement.key}, but {len(spatial)} values are needed ({', '.join(spatial)}): "
        "correct it."
    )
