"""Trains runs in worker processes, one per core, which are kept between calls."""
