"""The plan of a prediction, made before it starts: workers, tiles, time and memory."""
