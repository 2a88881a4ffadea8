"""Units of length in the spellings of other programs: UDUNITS names (OME-NGFF), SI symbols, microns and angstroms."""

from __future__ import annotations

from fractions import Fraction

_PREFIXES = {
    "yocto": ("y", -24), "zepto": ("z", -21), "atto": ("a", -18), "femto": ("f", -15), "pico": ("p", -12),
    "nano": ("n", -9), "micro": ("u", -6), "milli": ("m", -3), "centi": ("c", -2), "deci": ("d", -1), "": ("", 0),
    "deca": ("da", 1), "hecto": ("h", 2), "kilo": ("k", 3), "mega": ("M", 6), "giga": ("G", 9), "tera": ("T", 12),
    "peta": ("P", 15), "exa": ("E", 18), "zetta": ("Z", 21), "yotta": ("Y", 24),
}  # fmt: skip
_SYMBOLS = {f"{symbol}m": Fraction(10) ** (power + 9) for symbol, power in _PREFIXES.values()}
_NAMES = {
    f"{prefix}{metre}": Fraction(10) ** (power + 9)
    for prefix, (_, power) in _PREFIXES.items()
    for metre in ("meter", "metre")
} | {
    "micron": Fraction(1000), "angstrom": Fraction(1, 10), "ångström": Fraction(1, 10), "å": Fraction(1, 10),
    "a": Fraction(1, 10), "nm": Fraction(1), "um": Fraction(1000), "inch": Fraction(25_400_000),
    "foot": Fraction(304_800_000), "yard": Fraction(914_400_000), "mile": Fraction(1_609_344_000_000),
}  # fmt: skip
_NONE = {"", "pixel", "px", "voxel", "none", "null", "unknown", "dimensionless"}


def is_no_unit(unit: object) -> bool:
    """Return whether a unit in the metadata stands for no unit: empty, or pixels."""
    return unit is None or (isinstance(unit, str) and unit.strip().lower().rstrip("s") in _NONE)


def nanometres_in(unit: object) -> Fraction | None:
    """Return the length of a unit in nm, None for one that is not a unit of length.

    Symbols are case-sensitive (``mm``, ``Mm``), names are not, and may be plural.
    """
    if not isinstance(unit, str):
        return None
    text = unit.strip().replace("µ", "u").replace("μ", "u").replace("\u212b", "å")
    name = text.lower()
    return _SYMBOLS.get(text) or _NAMES.get(name) or _NAMES.get(name.removesuffix("s"))
