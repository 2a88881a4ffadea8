"""What is known of runs: records, summaries and checkpoints, and the cache of checkpoint files."""
