"""The state of a run, and how it is saved, restored and extended."""
