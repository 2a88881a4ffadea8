"""Training a network: preflight, the loop, validation, checkpoints, logs and snapshots."""
