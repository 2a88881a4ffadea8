"""Runs kept as files: the store and the observer that writes one run."""
