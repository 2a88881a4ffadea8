"""``incasem-like runs``: what can be asked of tracked runs and done to them."""
