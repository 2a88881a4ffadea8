"""Prediction: a checkpoint and a volume give a predicted volume, tile by tile."""
