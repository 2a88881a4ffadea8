"""The demo: the main workflow end to end on a synthetic volume, using the scripts themselves."""
