"""The evaluation of a run on its validation data."""
