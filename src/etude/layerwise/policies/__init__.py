"""Policies of multipliers: named, pure functions from the parts of a model to factors."""
