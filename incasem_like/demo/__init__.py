"""The main job end to end on a synthetic volume, through the scripts themselves."""
