"""Experiment-tracked segmentation of 3-D microscopy volumes; each sub-package is a room with one subject."""

__version__ = "0.1.0"
