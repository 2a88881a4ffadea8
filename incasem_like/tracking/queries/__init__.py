"""Questions to a run store: what a short name means in a run, and conditions such as ``dice>0.8`` on it."""
