"""The tracked commands, train and predict: what they read from the command line, call and print."""
