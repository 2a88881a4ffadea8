"""Making a record of work while it goes on: the run, its life cycle, output, surroundings, heartbeat."""
