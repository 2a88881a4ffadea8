"""Training targets made from labels: classes, boundaries, weights."""

from incasem_like.targets.boundaries import boundary_labels
from incasem_like.targets.classes import class_map
from incasem_like.targets.weights import balance_weights, class_fractions

__all__ = ["balance_weights", "boundary_labels", "class_fractions", "class_map"]
