"""Stored affinities: their offsets, which channels join neighbours, and the check of the offsets' signs.

``affinities[c, v]`` belongs to the voxels v and v + offsets[c]. The dataset holds the offsets in its attributes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError
from incasem_like.volumes import Volume
from incasem_like.volumes.faults import warn_once

Array = npt.NDArray[Any]
Offset = tuple[int, int, int]

# Blurred affinities contradict themselves at some levels with either sign; a wrong sign shows at one of these levels.
LEVELS = (0.5, 0.7, 0.9)
FEWEST_CONTRADICTIONS, LARGEST_RATIO = 50, 0.7
CLEAR_RATIO = 0.25  # blurred and noisy affinities that were simulated with the right sign stayed above 0.9


def stored_offsets(volume: Volume) -> tuple[Offset, ...]:
    """Return the offsets of a dataset of affinities, from its attribute ``offsets``, z, y, x in voxels.

    Raises:
        DataError: The attribute is missing or not a list of offsets, or there are fewer channels than offsets.
    """
    found = volume.attributes.get("offsets")
    hint = f'add "offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]] to {volume.format.attributes_file}'
    if found is None:
        raise DataError(f"{volume.address} does not give the offsets of its affinities: {hint}.")
    try:
        offsets = tuple(_as_offset(one) for one in found)
    except (TypeError, ValueError):
        offsets = ()
    if not offsets or any(not any(offset) for offset in offsets):
        raise DataError(f"{volume.address} has the attribute offsets {found}, which are not offsets: {hint}.")
    channels = volume.shape[0] if volume.axes == "czyx" else 1
    if channels < len(offsets):
        raise DataError(
            f"{volume.address} has {channels} channels, but {len(offsets)} offsets: correct the attribute offsets, "
            "each channel needs its own."
        )
    return offsets


def _as_offset(value: Sequence[int]) -> Offset:
    z, y, x = (0, *(int(step) for step in value))[-3:]
    if [int(step) for step in value] != list(value) or len(value) not in (2, 3):
        raise ValueError("not an offset")
    return z, y, x


def neighbour_channels(offsets: Sequence[Offset], axes: Sequence[int] = (0, 1, 2)) -> tuple[int, ...]:
    """Return the channel of the direct neighbours along each axis, in the order of ``axes``.

    >>> neighbour_channels([(0, -9, 0), (0, 0, -1), (-1, 0, 0), (0, 1, 0)])
    (2, 3, 1)

    Raises:
        DataError: An axis has none.
    """
    channels = []
    for axis in axes:
        units = [tuple(sign * (axis == other) for other in range(3)) for sign in (-1, 1)]
        found = [channel for channel, offset in enumerate(offsets) if tuple(offset) in units]
        if not found:
            raise DataError(
                f"No affinity joins neighbours along {'zyx'[axis]}: the offsets are {[list(o) for o in offsets]}, but "
                f"{list(units[0])} is needed; predict it too, or use mutex_watershed for any offsets."
            )
        channels.append(found[0])
    return tuple(channels)


def ends(shape: Sequence[int], offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of all v, and of their v + offset, where both are inside an array of that shape."""
    here = tuple(slice(max(0, -o), max(0, min(n, n - o))) for o, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(0, o), max(0, min(n, n + o))) for o, n in zip(offset, shape, strict=True))
    return here, there


def as_backward(affinities: Array, offsets: Sequence[Offset]) -> Array:
    """Return the affinities of neighbours along z, y, x with the offset -1, whatever the sign of the stored ones.

    Args:
        affinities: (channels, z, y, x).
        offsets: Of the channels.

    Returns:
        (3, z, y, x); 0 where v - 1 lies outside.

    Raises:
        DataError: As ``neighbour_channels``.
    """
    backward = np.zeros((3, *affinities.shape[1:]), affinities.dtype)
    for axis, channel in enumerate(neighbour_channels(offsets)):
        offset = tuple(-1 if axis == other else 0 for other in range(3))
        here, there = ends(affinities.shape[1:], offset)
        source = here if offsets[channel][axis] < 0 else there
        backward[axis][here] = affinities[channel][source]
    return backward


def contradictions(cut: npt.NDArray[np.bool_], flipped: Sequence[bool]) -> int:
    """Return the number of squares of four voxels with exactly one cut edge.

    If three edges of a square join its voxels, the fourth cannot separate them; of affinities read with the wrong sign,
    the edges of a square do not belong together.

    Args:
        cut: (3, z, y, x), whether the neighbours along z, y, x are separated.
        flipped: For each axis, whether the edge at v joins v and v + 1 instead of v and v - 1.
    """
    total = 0
    for one, other in itertools.combinations(range(3), 2):
        a, b = (np.moveaxis(cut[axis], (one, other), (0, 1)).view(np.uint8) for axis in (one, other))
        i, j = (0 if flipped[axis] else 1 for axis in (one, other))  # index of the edge between voxels 0 and 1
        m, n = (max(0, length - 2) for length in a.shape[:2])
        edges = a[i : i + m, :n] + a[i : i + m, 1 : n + 1] + b[:m, j : j + n] + b[1 : m + 1, j : j + n]
        total += int(np.count_nonzero(edges == 1))
    return total


def check_signs(affinities: Array, offsets: Sequence[Offset], name: str) -> None:
    """Check, on a sample, that the offsets of direct neighbours have the sign that the affinities were made with.

    Another sign that agrees better, but not far better, is a warning: affinities of a network that learned little
    contradict themselves with either sign.

    Args:
        affinities: (channels, z, y, x) from 0 to 1, with object boundaries in it.
        offsets: Of the channels.
        name: The dataset, for the error.

    Raises:
        DataError: Another sign of an axis agrees with the affinities far better.
    """
    channels = neighbour_channels(offsets)
    values = affinities[list(channels)]
    given = tuple(offsets[channel][axis] > 0 for axis, channel in enumerate(channels))
    ratios = []
    for level in LEVELS:
        counts = {
            flipped: contradictions(values < level, flipped) for flipped in itertools.product((False, True), repeat=3)
        }
        best = min(counts, key=lambda signs: (counts[signs], signs != given))
        if counts[given] >= FEWEST_CONTRADICTIONS:
            ratios.append((counts[best] / counts[given], best))
    ratio, best = min(ratios, default=(1.0, given))
    if ratio > LARGEST_RATIO:
        return
    axes = [axis for axis in range(3) if best[axis] != given[axis]]
    found = ", ".join(str(list(offsets[channels[axis]])) for axis in axes)
    meant = ", ".join(str([-step for step in offsets[channels[axis]]]) for axis in axes)
    definition = "the affinity of voxel v is that with v + offset"
    if ratio > CLEAR_RATIO:
        warn_once(
            f"{name} gives the offsets {found}, but its affinities agree somewhat better with {meant}: compare the "
            f"sign in the attribute offsets with the training's ({definition})."
        )
        return
    raise DataError(
        f"{name} gives the offsets {found}, but its affinities agree with {meant}: correct the sign in the "
        f"attribute offsets ({definition})."
    )
