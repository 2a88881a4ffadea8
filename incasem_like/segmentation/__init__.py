"""Segmentation of probability or affinity maps into objects."""
