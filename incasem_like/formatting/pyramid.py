"""Scale pyramids: a volume and smaller copies of it in one group, with OME-NGFF metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from incasem_like.errors import InputError
from incasem_like.formatting.derive import DatasetWritten, Derivation, derive
from incasem_like.formatting.operations import Method, chosen_method, convert, downsample, is_labels
from incasem_like.volumes import Coordinate, open_volume, parse_address
from incasem_like.volumes.multiscale import array_to_move, move_into_group, write_multiscales

Factors = tuple[int, int, int]


def level_factors(shape: Sequence[int], voxel_size: Sequence[float] | None, smallest: int = 128) -> list[Factors]:
    """Return factors that halve a volume until it fits into one block, each relative to the level before.

    An axis is halved only while its voxels are shorter than twice the shortest side, so that voxels become isotropic
    first and stay so.

    Args:
        shape: (z, y, x) in voxels.
        voxel_size: (z, y, x); None for isotropic voxels.
        smallest: Sides of the block, voxels.

    Example:
        >>> level_factors((100, 600, 600), (50, 5, 5))
        [(1, 2, 2), (1, 2, 2), (1, 2, 2)]
    """
    size, sides, found = list(voxel_size or (1.0, 1.0, 1.0)), list(shape), []
    while max(sides) > smallest:
        shortest = min(nm for nm, side in zip(size, sides, strict=True) if side > 1)
        z, y, x = (2 if nm < 2 * shortest and side > 1 else 1 for nm, side in zip(size, sides, strict=True))
        found.append((z, y, x))
        size = [nm * factor for nm, factor in zip(size, found[-1], strict=True)]
        sides = [-(-side // factor) for side, factor in zip(sides, found[-1], strict=True)]
    return found


def make_pyramid(
    derivation: Derivation, *, factors: Sequence[Factors] | None = None, method: Method = "auto", in_place: bool = True
) -> list[DatasetWritten]:
    """Write the levels of a pyramid: ``s0``, the volume itself, ``s1`` and so on, each from the level before.

    Args:
        derivation: The volume. In place, ``out_dataset`` is ignored: the volume is moved to ``s0`` of a group of its
            own name. Else ``out_dataset`` is the group, and ``s0`` a copy.
        factors: Of each further level relative to the level before, (z, y, x); None for ``level_factors``.
        method: See ``downsample``.
        in_place: Whether to move the volume instead of copying it.

    Returns:
        What was written, by level, without a level 0 that was moved.

    Raises:
        InputError: A level exists with other parameters, or no factor is given and none is needed.
        DataError: The volume is missing.
    """
    group = derivation.dataset if in_place else derivation.out_dataset
    container = derivation.container if in_place else derivation.out_container or derivation.container
    level = [f"{group}/s{number}".lstrip("/") for number in range(100)]
    written = []
    address = parse_address(container, group)
    if in_place:
        there = open_volume(array_to_move(address, "s0"))
    else:
        there = open_volume(derivation.container, derivation.dataset)
    chosen = level_factors(there.spatial_shape, there.voxel_size) if factors is None else list(factors)
    if not chosen:
        raise InputError(
            f"{there.address} has {list(there.shape)} voxels and needs no smaller copies: give --scales to make some."
        )
    chosen_method(there, method)
    if in_place:
        move_into_group(address, "s0")
        derivation = replace(derivation, out_container=None)
    else:
        written.append(derive(replace(derivation, out_dataset=level[0]), convert))
        derivation = replace(derivation, container=container, out_container=None)
    first = open_volume(container, level[0])
    if method == "auto":
        method = "mode" if is_labels(first) else "mean"
    relative = [Coordinate(1, 1, 1)]
    for number, factor in enumerate(chosen, 1):
        step = replace(derivation, dataset=level[number - 1], out_dataset=level[number])
        written.append(derive(step, downsample, factors=factor, method=method))
        relative.append(relative[-1] * Coordinate(factor))
    write_multiscales([open_volume(container, name) for name in level[: len(relative)]], relative, method)
    return written


def parse_factors(text: str) -> Factors:
    """Parse ``2`` or ``1,2,2``.

    Raises:
        InputError: Neither one nor three whole numbers of 1 or more.

    Example:
        >>> parse_factors("1,2,2"), parse_factors("2")
        ((1, 2, 2), (2, 2, 2))
    """
    words = text.split(",")
    if len(words) not in (1, 3) or not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise InputError(f"--scales {text} is not a factor: give a whole number, or three joined by commas as 1,2,2.")
    z, y, x = (int(word) for word in words * (3 // len(words)))
    return z, y, x
