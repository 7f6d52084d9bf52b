"""Runs in worker processes: one per core, kept between calls."""
