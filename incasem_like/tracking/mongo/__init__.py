"""Runs kept in MongoDB: the store and the observer that writes one run."""
