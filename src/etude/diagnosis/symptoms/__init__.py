"""What is seen in the readings of a run: pure functions from a `History` to findings."""
