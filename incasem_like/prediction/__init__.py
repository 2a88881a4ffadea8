"""Prediction: applies a checkpoint to a volume tile by tile and writes the predicted volume."""

# Name of the figure that the run of a series stores.
SERIES_FIGURE = "scores_by_iteration.png"
