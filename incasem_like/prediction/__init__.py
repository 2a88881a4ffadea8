"""Prediction: a checkpoint and a volume give a predicted volume, tile by tile."""

# What the run of a series keeps its figure as.
SERIES_FIGURE = "scores_by_iteration.png"
