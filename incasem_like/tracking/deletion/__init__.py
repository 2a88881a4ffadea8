"""Deleting runs: what stands against it, whose the files are, what it frees."""
