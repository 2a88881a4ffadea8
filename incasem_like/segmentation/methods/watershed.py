"""Watershed and agglomeration: fragments around maxima of the distance to boundaries, merged by their affinities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from incasem_like.config.kinds import Count, Flag, Fraction, PositiveNumber, Words, contradiction
from incasem_like.graphs import Table
from incasem_like.segmentation.affinities import Offset, neighbour_channels
from incasem_like.segmentation.agglomeration import SCORING, adjacent_pairs, agglomerate, joined_nodes
from incasem_like.segmentation.label_arrays import relabel
from incasem_like.segmentation.methods.base import BlockReader, Ids, Method, without_debris
from incasem_like.segmentation.values import Values
from incasem_like.segmentation.watershed import watershed_fragments

CONTEXT = 24
SCORING_WORDS = "one of " + ", ".join(SCORING)


class Watershed(Method):
    """Fragments by a seeded watershed, merged by a score of the affinities on their contacts."""

    edge_options: ClassVar[tuple[str, ...]] = ("scoring",)
    table_options: ClassVar[tuple[str, ...]] = ("threshold",)
    fragments_in_xy: Flag = Field(False, description="Make fragments section by section: for anisotropic voxels.")
    boundary_threshold: Fraction = Field(0.5, description="A mean affinity, or a probability, above it is interior.")
    seed_distance: PositiveNumber | None = Field(
        None,
        description="Side in nm of the box in which only the largest distance to the boundary is a seed; "
        "null = 10 times the smallest side of a voxel.",
    )
    flood_boundaries: Flag = Field(False, description="Assign boundaries to the nearest fragment; false = they stay 0.")
    filter_fragments: Fraction = Field(0.0, description="Fragments with a mean affinity below it become 0.")
    remove_debris: Count = Field(0, description="Fragments of fewer voxels become 0 before they are merged.")
    epsilon_agglomerate: Fraction = Field(
        0.0, description="Merge fragments up to this score by hist_quant_25 before they are written; 0 = no."
    )
    scoring: Annotated[str, Words(SCORING_WORDS)] = Field(
        "mean",
        description="Score of an edge: 1 - mean, or a percentile, of the affinities on the contact; `initmax` begins "
        "with the largest affinity of each pair.",
    )
    threshold: Fraction | tuple[Fraction, ...] = Field(
        0.3, description="Merges with a score below it are made, from 0 to 1; a list makes one segmentation each."
    )

    @field_validator("scoring")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in SCORING:
            raise ValueError(SCORING_WORDS)
        return value

    @field_validator("threshold")
    @classmethod
    def _names_differ(cls, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        if value == ():
            raise contradiction("segmentation.watershed.threshold is an empty list: give at least one threshold.")
        return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value

    def check(self, offsets: Sequence[Offset]) -> None:
        """Check that direct neighbours have affinities."""
        if offsets:
            neighbour_channels(offsets)

    def context(self, offsets: Sequence[Offset]) -> tuple[int, int, int]:
        """Return how far a block sees; fragments within sections need the context only for their scores."""
        return CONTEXT, CONTEXT, CONTEXT

    def fragments(self, values: Values, seed: int) -> Ids:
        """Flood the interior, remove fragments with weak affinities, merge those that surely belong together."""
        interior = values.mean_of((1, 2) if self.fragments_in_xy else (0, 1, 2))
        fragments = watershed_fragments(
            interior,
            threshold=self.boundary_threshold,
            seed_distance=self.seed_distance or 10 * min(values.voxel_size),
            voxel_size=values.voxel_size,
            in_xy=self.fragments_in_xy,
            flood_boundaries=self.flood_boundaries,
        )
        fragments *= values.valid
        fragments = without_debris(fragments, interior, self.filter_fragments, self.remove_debris)
        if self.epsilon_agglomerate:
            history = agglomerate(fragments, values.backward, "hist_quant_25", self.epsilon_agglomerate)
            fragments = relabel(fragments, history.ids, history.cut(self.epsilon_agglomerate))
        return fragments

    def edges(self, reader: BlockReader) -> Table:
        """Agglomerate block and context; return the edges of the fragments of this block with their merge scores.

        The block that holds the fragment with the lower id writes the edge.
        """
        around = (CONTEXT,) * 3
        roi = reader.write_roi.grow(around, around).intersect(reader.volume_roi)
        fragments = reader.fragments(roi)
        ids, pairs = adjacent_pairs(fragments)
        own = reader.owns(ids)[pairs[:, 0]] if len(ids) else np.zeros(0, bool)
        pairs = pairs[own]
        scores = np.zeros(0, np.float32)
        if len(pairs):
            scores = agglomerate(fragments, reader.values(roi).backward, self.scoring).edge_scores(pairs)
        return {"u": ids[pairs[:, 0]], "v": ids[pairs[:, 1]], "merge_score": scores}

    def cuts(self) -> tuple[float | None, ...]:
        """Return the thresholds."""
        return self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)

    def segments(self, ids: Ids, nodes: Table, edges: Mapping[str, npt.NDArray[Any]], cut: float | None) -> Ids:
        """Join the fragments whose edge has a score below the threshold; fragments that never merge have NaN."""
        chosen = edges["merge_score"] < cut
        return joined_nodes(len(ids), edges["u"][chosen], edges["v"][chosen])
