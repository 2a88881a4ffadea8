"""Methods that label connected voxels: connected components, hysteresis, and a threshold without objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from incasem_like.config.kinds import Fraction, contradiction
from incasem_like.graphs import Table
from incasem_like.segmentation.affinities import Offset, neighbour_channels
from incasem_like.segmentation.components import Connectivity, label_affinities, label_mask
from incasem_like.segmentation.methods.base import BlockReader, Ids, Method, face_pairs, pair_table
from incasem_like.segmentation.values import Meaning, Values

NEIGHBOURS = "Neighbours share a face (6), also an edge (18), also a corner (26); no effect on affinities."


class ConnectedComponents(Method):
    """Connected components of affinities, or of a probability map, above a threshold.

    Blockwise and in memory give the same objects, up to their ids.
    """

    threshold: Fraction = Field(0.5, description="Affinities or probabilities of at least this connect.")
    connectivity: Connectivity = Field(26, description=NEIGHBOURS)

    def check(self, offsets: Sequence[Offset]) -> None:
        """Check that direct neighbours have affinities."""
        if offsets:
            neighbour_channels(offsets)

    def context(self, offsets: Sequence[Offset]) -> tuple[int, int, int]:
        """Return one voxel for affinities: a voxel may be connected across the border alone."""
        return (1, 1, 1) if offsets else (0, 0, 0)

    def fragments(self, values: Values, seed: int) -> Ids:
        """Label the components of the block."""
        reached = values.reaches(self.threshold)
        if values.offsets:
            return label_affinities(reached, values.offsets)
        return label_mask(reached[0], self.connectivity)

    def edges(self, reader: BlockReader) -> Table:
        """Return the pairs that are connected across the lower faces."""
        if not reader.offsets:
            return face_pairs(reader, self.connectivity)
        pairs = []
        for axis, roi in reader.lower_faces():
            values, fragments = reader.values(roi), reader.fragments(roi)
            (channel,) = neighbour_channels(values.offsets, (axis,))
            before, own = np.moveaxis(fragments, axis, 0)
            joined = np.moveaxis(values.reaches(self.threshold)[channel], axis, 0)
            chosen = joined[1 if values.offsets[channel][axis] < 0 else 0] & (before > 0) & (own > 0)
            pairs.append(np.stack([before[chosen], own[chosen]], axis=1))
        return pair_table(pairs)


class Hysteresis(Method):
    """Components of voxels that reach a low threshold and contain a voxel that reaches a high one.

    Blockwise and in memory give the same objects, up to their ids.
    """

    reads: ClassVar[tuple[Meaning, ...]] = ("boundaries", "objects")
    low: Fraction = Field(0.2, description="Voxels of at least this probability belong to an object.")
    high: Fraction = Field(0.98, description="An object has a voxel of at least this probability.")
    connectivity: Connectivity = Field(26, description=NEIGHBOURS)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise contradiction(
                f"segmentation.hysteresis.low is {self.low:g} and above high {self.high:g}: exchange them."
            )
        return self

    def fragments(self, values: Values, seed: int) -> Ids:
        """Label the components of voxels that reach the low threshold."""
        return label_mask(values.reaches(self.low)[0], self.connectivity)

    def node_columns(self, values: Values, fragments: Ids, ids: Ids) -> dict[str, npt.NDArray[Any]]:
        """Return whether each fragment has a voxel that reaches the high threshold."""
        return {"is_seed": np.isin(ids, fragments[values.reaches(self.high)[0]])}

    def edges(self, reader: BlockReader) -> Table:
        """Return the pairs that touch each other across the lower faces."""
        return face_pairs(reader, self.connectivity)

    def segments(self, ids: Ids, nodes: Table, edges: Mapping[str, npt.NDArray[Any]], cut: float | None) -> Ids:
        """Remove the components without a seed."""
        components = super().segments(ids, nodes, edges, cut)
        components[~np.isin(components, components[nodes["is_seed"]])] = 0
        return components


class Threshold(Method):
    """All voxels that reach a threshold, as one object."""

    reads: ClassVar[tuple[Meaning, ...]] = ("boundaries", "objects")
    threshold: Fraction = Field(0.5, description="Voxels of at least this probability are 1.")

    def fragments(self, values: Values, seed: int) -> Ids:
        """Return 1 where the threshold is reached."""
        return np.asarray(values.reaches(self.threshold)[0], np.uint64)

    def segments(self, ids: Ids, nodes: Table, edges: Mapping[str, npt.NDArray[Any]], cut: float | None) -> Ids:
        """Return one object."""
        return np.ones(len(ids), np.uint64)
