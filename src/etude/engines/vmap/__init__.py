"""Stacked training: many runs of one kind as one computation."""
