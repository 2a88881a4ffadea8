"""Computing predictions: loading networks, dividing regions into tiles, averaging, keeping a device busy."""
