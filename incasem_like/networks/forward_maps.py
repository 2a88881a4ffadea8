"""Memory of a network's forward pass, in feature maps of the size of its input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForwardMaps:
    """Memory for a whole tile in a forward pass without gradients.

    Maps of a coarser level count by their number of voxels; the cropping of valid convolutions is ignored, so both
    numbers are the limit for very large tiles and an upper bound for smaller ones.

    Attributes:
        together: Feature maps in memory at the same time, including those of the input and of the output.
        widest: Feature maps of the largest tensor.
    """

    together: float
    widest: float
