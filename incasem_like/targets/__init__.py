"""What a network learns of labels: targets and their losses, and the plain functions on arrays they are computed by."""

from incasem_like.targets.affinities import affinities
from incasem_like.targets.boundaries import boundary_labels, grow_boundary
from incasem_like.targets.classes import class_map
from incasem_like.targets.descriptor_window import DESCRIPTOR_NAMES
from incasem_like.targets.descriptors import local_shape_descriptors
from incasem_like.targets.distance import boundary_distance, normalised_distance
from incasem_like.targets.losses import activate
from incasem_like.targets.target import LabelBlock, Target, channel_slices, overlapping_classes, targets_of
from incasem_like.targets.weights import (
    balance_weights,
    boundary_weights,
    class_fractions,
    instance_weights,
    separation_weights,
)

__all__ = [
    "DESCRIPTOR_NAMES",
    "LabelBlock",
    "Target",
    "activate",
    "affinities",
    "balance_weights",
    "boundary_distance",
    "boundary_labels",
    "boundary_weights",
    "channel_slices",
    "class_fractions",
    "class_map",
    "grow_boundary",
    "instance_weights",
    "local_shape_descriptors",
    "normalised_distance",
    "overlapping_classes",
    "separation_weights",
    "targets_of",
]
