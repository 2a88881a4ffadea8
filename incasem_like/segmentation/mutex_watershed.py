"""Mutex watershed: objects from attractive affinities of neighbours and repulsive ones over a distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.segmentation.affinities import Offset, ends

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.uint64]


def is_attractive(offset: Sequence[int]) -> bool:
    """Return whether an offset leads to a neighbour, also a diagonal one; others repel."""
    return max(abs(step) for step in offset) <= 1


def has_attraction(affinities: Array, offsets: Sequence[Offset]) -> npt.NDArray[np.bool_]:
    """Return where a voxel has an affinity above 0 with any neighbour; others belong to no object.

    >>> near = np.array([0, 0, 0.5, 0], np.float32).reshape(1, 1, 1, 4)
    >>> has_attraction(near, [(0, 0, -1)]).tolist()
    [[[False, True, True, False]]]
    """
    found = np.zeros(affinities.shape[1:], bool)
    for values, offset in zip(affinities, offsets, strict=True):
        if is_attractive(offset):
            here, there = ends(found.shape, offset)
            attracts = values[here] > 0
            found[here] |= attracts
            found[there] |= attracts
    return found


def mutex_weights(affinities: Array, offsets: Sequence[Offset], bias: float | Sequence[float] = 0.0) -> Array:
    """Return the weights of pairs: the affinity where an offset attracts, 1 - affinity where it repels, plus the bias.

    Args:
        affinities: (channels, z, y, x) from 0 to 1.
        offsets: Of the channels.
        bias: A number, added to all repulsions; or one for each offset, also of those that attract.
    """
    attractive = [is_attractive(offset) for offset in offsets]
    if isinstance(bias, int | float):
        bias = [0.0 if attracts else bias for attracts in attractive]
    weights = np.empty(affinities.shape, np.float32)
    for found, values, attracts, shift in zip(weights, affinities, attractive, bias, strict=True):
        found[:] = (values if attracts else 1 - values) + np.float32(shift)
    return weights


def mutex_watershed(
    affinities: Array,
    offsets: Sequence[Offset],
    *,
    bias: float | Sequence[float] = 0.0,
    strides: Sequence[int] = (1, 1, 1),
    randomized_strides: bool = False,
    noise: float | Sequence[float] = 0.0,
    seed: int = 0,
    mask: npt.NDArray[np.bool_] | None = None,
) -> Ids:
    """Segment affinities by the mutex watershed (Wolf et al. 2018, arXiv:1904.12654).

    All pairs of voxels are visited in the order of their weights: offsets to neighbours attract with the affinity,
    longer ones repel with ``1 - affinity + bias``. An attractive pair joins two objects unless a repulsive pair that
    came before forbids it.

    Args:
        affinities: (channels, z, y, x) from 0 to 1.
        offsets: Of the channels.
        bias: Added to all repulsions: above 0, more is separated; or one for each offset, see ``mutex_weights``.
        strides: Every how many voxels along z, y, x repulsive pairs count.
        randomized_strides: Choose the same share of repulsive pairs at random.
        noise: Standard deviation of normal noise on the weights, which breaks ties without a preferred direction; a
            number, or one for each offset.
        seed: Of noise and random pairs.
        mask: Voxels to segment; others are 0.

    Returns:
        Ids 1..n, uint64.

    >>> near = np.array([1, 1, 0.3, 1], np.float32).reshape(1, 1, 1, 4)
    >>> far = np.array([1, 1, 0.1, 0.1], np.float32).reshape(1, 1, 1, 4)
    >>> mutex_watershed(np.concatenate([near, far]), [(0, 0, -1), (0, 0, -2)]).tolist()
    [[[1, 1, 2, 2]]]
    """
    from bioimage_cpp.segmentation import mutex_watershed as engine

    order = sorted(range(len(offsets)), key=lambda channel: not is_attractive(offsets[channel]))
    attractive = sum(is_attractive(offset) for offset in offsets)
    weights = mutex_weights(affinities, offsets, bias)
    generator = np.random.default_rng(seed)
    if np.any(noise):
        deviations = np.broadcast_to(np.asarray(noise, np.float32), len(offsets))
        for channel, deviation in zip(weights, deviations, strict=True):
            channel += deviation * generator.standard_normal(channel.shape, np.float32)
    weights = weights[order]
    if randomized_strides:  # the engine draws from NumPy's global generator
        state = np.random.get_state()
        np.random.seed(generator.integers(2**32))
    try:
        found: Ids = engine(
            weights,
            [offsets[channel] for channel in order],
            attractive,
            strides=None if tuple(strides) == (1, 1, 1) else list(strides),
            randomized_strides=randomized_strides,
            mask=mask,
        )
    finally:
        if randomized_strides:
            np.random.set_state(state)
    return found
