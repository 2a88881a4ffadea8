"""Downloading published files: resumed, checked, and held against what came first."""
