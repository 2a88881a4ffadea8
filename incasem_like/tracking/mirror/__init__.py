"""Copying runs and checkpoints into MongoDB."""
