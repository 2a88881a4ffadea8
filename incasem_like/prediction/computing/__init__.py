"""Networks at work on tiles: loaded, laid over a region, several averaged, a device kept busy."""
