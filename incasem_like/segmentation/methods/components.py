"""Methods that label connected voxels: connected components, hysteresis, and a threshold without objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import Fraction, contradiction
from incasem_like.segmentation.affinities import Offset, neighbour_channels
from incasem_like.segmentation.components import Connectivity
from incasem_like.segmentation.methods.base import Labelling
from incasem_like.segmentation.values import Meaning


class Connected(Labelling):
    """A method whose objects are connected voxels."""

    connectivity: Connectivity = Field(
        26, description="Neighbours share a face (6), also an edge (18), also a corner (26); no effect on affinities."
    )

    @property
    def neighbours(self) -> Connectivity:
        """The connectivity."""
        return self.connectivity


class ConnectedComponents(Connected):
    """Connected components of affinities, or of a probability map, above a threshold."""

    threshold: Fraction = Field(0.5, description="Affinities or probabilities of at least this connect.")

    @property
    def lowest(self) -> float:
        """The threshold."""
        return self.threshold

    def check(self, offsets: Sequence[Offset]) -> None:
        """Check that direct neighbours have affinities."""
        if offsets:
            neighbour_channels(offsets)


class Hysteresis(Connected):
    """Components of voxels that reach a low threshold and contain a voxel that reaches a high one."""

    reads: ClassVar[tuple[Meaning, ...]] = ("boundaries", "objects")
    low: Fraction = Field(0.2, description="Voxels of at least this probability belong to an object.")
    high: Fraction = Field(0.98, description="An object has a voxel of at least this probability.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise contradiction(
                f"segmentation.hysteresis.low is {self.low:g} and above high {self.high:g}: exchange them."
            )
        return self

    @property
    def lowest(self) -> float:
        """The low threshold."""
        return self.low

    @property
    def needed(self) -> float:
        """The high threshold."""
        return self.high


class Threshold(Labelling):
    """All voxels that reach a threshold, as one object."""

    reads: ClassVar[tuple[Meaning, ...]] = ("boundaries", "objects")
    threshold: Fraction = Field(0.5, description="Voxels of at least this probability are 1.")

    @property
    def lowest(self) -> float:
        """The threshold."""
        return self.threshold
