"""Voxel metrics per class, threshold sweeps, and the measuring of a prediction while it is made."""

from incasem_like.evaluation.voxel import ConfusionCounts, voxel_scores

__all__ = ["ConfusionCounts", "voxel_scores"]
