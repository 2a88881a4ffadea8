"""Training targets made from labels, and the weight of each voxel in the loss: plain functions on arrays."""

from incasem_like.targets.affinities import affinities
from incasem_like.targets.boundaries import boundary_labels, grow_boundary
from incasem_like.targets.classes import class_map
from incasem_like.targets.descriptors import DESCRIPTOR_NAMES, local_shape_descriptors
from incasem_like.targets.distance import boundary_distance, normalised_distance
from incasem_like.targets.weights import (
    balance_weights,
    boundary_weights,
    class_fractions,
    instance_weights,
    separation_weights,
)

__all__ = [
    "DESCRIPTOR_NAMES",
    "affinities",
    "balance_weights",
    "boundary_distance",
    "boundary_labels",
    "boundary_weights",
    "class_fractions",
    "class_map",
    "grow_boundary",
    "instance_weights",
    "local_shape_descriptors",
    "normalised_distance",
    "separation_weights",
]
