"""Voxel metrics per class, threshold sweeps, and metrics computed during prediction."""

from incasem_like.evaluation.voxel import ConfusionCounts, voxel_scores

__all__ = ["ConfusionCounts", "voxel_scores"]
