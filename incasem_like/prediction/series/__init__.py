"""Many checkpoints of one training, one after another on the same regions, as one tracked run."""
