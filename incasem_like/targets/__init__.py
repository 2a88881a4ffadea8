"""Training targets made from labels: what a network learns, its losses, and the functions they are computed by."""

from incasem_like.targets.affinities import affinities
from incasem_like.targets.boundaries import boundary_labels
from incasem_like.targets.classes import class_map
from incasem_like.targets.losses import activate
from incasem_like.targets.target import LabelBlock, Target, channel_slices, targets_of
from incasem_like.targets.weights import balance_weights, class_fractions

__all__ = [
    "LabelBlock",
    "Target",
    "activate",
    "affinities",
    "balance_weights",
    "boundary_labels",
    "channel_slices",
    "class_fractions",
    "class_map",
    "targets_of",
]
