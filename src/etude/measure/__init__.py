"""Measures of a run: curvature, noise, sensitivity, and where training breaks."""
