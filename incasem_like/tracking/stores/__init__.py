"""Stores of runs: files and MongoDB."""
