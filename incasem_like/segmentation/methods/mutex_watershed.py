"""Mutex watershed block by block: voxels within blocks, then the graph of fragments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from incasem_like.config.kinds import Flag, Fraction, NotNegative, Number, Positive, Seed, Size, Text
from incasem_like.errors import DataError, InputError
from incasem_like.graphs import Table
from incasem_like.segmentation.affinities import Offset, ends, neighbour_channels
from incasem_like.segmentation.label_arrays import consecutive
from incasem_like.segmentation.methods.base import BlockReader, Ids, Method, without_debris
from incasem_like.segmentation.mutex_watershed import (
    cluster_with_seeds,
    has_attraction,
    is_attractive,
    mutex_watershed,
    mutex_weights,
)
from incasem_like.segmentation.values import Meaning, Values

CONTEXT = 16


class MutexWatershed(Method):
    """Mutex watershed of affinities with any offsets: neighbours attract, longer offsets repel."""

    reads: ClassVar[tuple[Meaning, ...]] = ("affinities",)
    boundary_threshold: Fraction | None = Field(
        None, description="Voxels whose mean affinity with their neighbours is not above it are 0; null = none."
    )
    bias: Number | tuple[Number, ...] = Field(
        0.0,
        description="Added to the repulsions, which are 1 - affinity: above 0, more is separated; a list gives one "
        "for each offset, added to its attractions or repulsions.",
    )
    strides: Size = Field((1, 1, 1), description="Every how many voxels along z, y, x a repulsive pair counts.")
    randomized_strides: Flag = Field(False, description="Choose the same share of repulsive pairs at random.")
    noise: NotNegative | tuple[NotNegative, ...] = Field(
        0.0,
        description="Standard deviation of normal noise on the weights, to break ties; a list gives one for each "
        "offset.",
    )
    seeds: Text | None = Field(
        None,
        description="Dataset, `ZARR/DS`, of labels in some voxels: objects with different ids never merge, and keep "
        "their ids; null = none.",
    )
    seed: Seed = Field(0, description="Seed of noise and random strides.")
    filter_fragments: Fraction = Field(0.0, description="Fragments with a mean affinity below it become 0.")
    remove_debris: Positive = Field(2, description="Fragments of fewer voxels become 0 before they are clustered.")

    def check(self, offsets: Sequence[Offset]) -> None:
        """Check that some offsets attract and some repel."""
        attractive = [is_attractive(offset) for offset in offsets]
        if all(attractive) or not any(attractive):
            raise DataError(
                f"mutex_watershed needs affinities of neighbours and longer ones, but all {len(offsets)} offsets are "
                f"{'of neighbours' if any(attractive) else 'long'}: predict both, or use watershed."
            )
        neighbour_channels(offsets)
        for name in ("bias", "noise"):
            given = getattr(self, name)
            if isinstance(given, tuple) and len(given) != len(offsets):
                raise InputError(
                    f"segmentation.mutex_watershed.{name} has {len(given)} values, but there are {len(offsets)} "
                    "offsets: give one number, or one for each offset."
                )

    def context(self, offsets: Sequence[Offset]) -> tuple[int, int, int]:
        """Return as far as the longest offset reaches, and at least 16 voxels."""
        z, y, x = (max(CONTEXT, *(abs(step) for step in steps)) for steps in zip(*offsets, strict=True))
        return z, y, x

    @property
    def seed_labels(self) -> str | None:
        """The seeds."""
        return self.seeds

    def fragments(self, values: Values, seed: int) -> Ids:
        """Segment the block and its context; what is smaller than debris, or of weak affinities, is 0."""
        mask = values.valid & has_attraction(values.fractions, values.offsets)
        if self.boundary_threshold is not None:
            mask = mask & (values.interior > self.boundary_threshold)
        if values.seeds is not None:
            mask = mask | (values.seeds > 0)
        if not mask.any():
            return np.zeros(mask.shape, np.uint64)
        fragments = mutex_watershed(
            values.fractions,
            values.offsets,
            bias=self.bias,
            strides=self.strides,
            randomized_strides=self.randomized_strides,
            noise=self.noise,
            seed=int(np.random.SeedSequence([self.seed, seed]).generate_state(1)[0]),
            mask=mask,
            seeds=values.seeds,
        )
        cleaned = without_debris(fragments, values.interior, self.filter_fragments, self.remove_debris)
        if values.seeds is None:
            return cleaned
        return np.where(np.isin(fragments, fragments[values.seeds > 0]), fragments, cleaned)

    def edges(self, reader: BlockReader) -> Table:
        """Return sum and number of the attractive and the repulsive weights of each pair of fragments.

        The pair of voxels v and v + offset is counted by the block of v.
        """
        offsets = reader.offsets
        reach = [max(abs(step) for step in steps) for steps in zip(*offsets, strict=True)]
        roi = reader.write_roi.grow(reach, reach).intersect(reader.volume_roi)
        values, (labels, ids) = reader.values(roi), consecutive(reader.fragments(roi))
        core = (reader.write_roi - roi.begin).to_slices()
        inside = np.zeros(labels.shape, bool)
        inside[core] = True
        weighed = mutex_weights(values.fractions, offsets, self.bias)
        columns: dict[str, list[npt.NDArray[Any]]] = {"pair": [], "weight": [], "repels": []}
        for channel, offset in enumerate(offsets):
            here, there = ends(labels.shape, offset)
            a, b = labels[here], labels[there]
            chosen = (a > 0) & (b > 0) & (a != b) & inside[here]
            low, high = np.minimum(a[chosen], b[chosen]), np.maximum(a[chosen], b[chosen])
            weights = weighed[channel][here][chosen].astype(np.float64)
            columns["pair"].append((low - 1) * np.uint64(len(ids)) + high - 1)
            columns["weight"].append(weights)
            columns["repels"].append(np.full(len(weights), not is_attractive(offset)))
        pair, weight, repels = (np.concatenate(columns[name]) for name in ("pair", "weight", "repels"))
        known, index = np.unique(pair, return_inverse=True)
        table = {"u": ids[known // max(1, len(ids))], "v": ids[known % max(1, len(ids))]}
        for name, chosen in (("attraction", ~repels), ("repulsion", repels)):
            table[f"{name}_sum"] = np.bincount(index[chosen], weight[chosen], len(known)).astype(np.float64)
            table[f"{name}_count"] = np.bincount(index[chosen], minlength=len(known))
        return table

    def segments(self, ids: Ids, nodes: Table, edges: Mapping[str, npt.NDArray[Any]], cut: float | None) -> Ids:
        """Cluster the graph by the mutex watershed, with the mean weights of each pair."""
        pairs, index = np.unique(np.stack([edges["u"], edges["v"]], 1), axis=0, return_inverse=True)
        means = {}
        for name in ("attraction", "repulsion"):
            total = np.bincount(index, edges[f"{name}_sum"], len(pairs))
            count = np.bincount(index, edges[f"{name}_count"], len(pairs))
            means[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        attracts, repels = (~np.isnan(means[name]) for name in ("attraction", "repulsion"))
        seeds = nodes["seed"].astype(np.uint64) if "seed" in nodes else np.zeros(len(ids), np.uint64)
        return cluster_with_seeds(
            seeds,
            (pairs[attracts].astype(np.uint64), means["attraction"][attracts]),
            (pairs[repels].astype(np.uint64), means["repulsion"][repels]),
        )
