"""Proposes the next Recipe: where to look, how long, what the comparison says."""
