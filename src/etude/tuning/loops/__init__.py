"""Tuning of loops that belong to somebody else: the same search, over what the loop reports."""
