"""Bootstrapping: rounds from painted sections to a dense segmentation, each a run that refers to ordinary runs."""
