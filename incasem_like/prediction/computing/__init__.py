"""Networks at work on tiles: loaded, laid over a region, averaged, a device kept busy."""
