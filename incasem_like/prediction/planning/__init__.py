"""What a prediction will do, found out before it starts: who predicts, in which tiles, in what time and memory."""
