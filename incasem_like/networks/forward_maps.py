"""How much of a network's forward pass is in memory at once, in feature maps of the size of its input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForwardMaps:
    """What a tile takes while a network that keeps no gradients computes it as a whole.

    Maps of a coarser level count by their voxels; what valid convolutions cut off is not taken away, so that both are
    what very large tiles come to, and more than smaller ones.

    Attributes:
        together: Feature maps that are in memory at the same time, those of the input and of the output included.
        widest: Feature maps of the largest tensor.
    """

    together: float
    widest: float
