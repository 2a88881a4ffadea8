"""Affinities of label arrays, and whether two label arrays are the same partition."""

import numpy as np

from incasem_like.segmentation.affinities import ends

NEIGHBOURS = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]


def affinities_of(labels, offsets):
    """1 where both ends are inside and have the same id above 0."""
    found = np.zeros((len(offsets), *labels.shape), np.float32)
    for channel, offset in enumerate(offsets):
        here, there = ends(labels.shape, offset)
        found[channel][here] = (labels[here] == labels[there]) & (labels[here] > 0)
    return found


def same_partition(one, other):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
