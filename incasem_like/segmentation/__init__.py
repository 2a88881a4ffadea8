"""Segmentation: probability or affinity maps become objects."""
