"""Measurements: each file states in its first lines what it measures, and against what."""
