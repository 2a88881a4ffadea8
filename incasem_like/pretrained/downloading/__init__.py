"""Downloading published files: resumed, verified, and compared with the first download."""
