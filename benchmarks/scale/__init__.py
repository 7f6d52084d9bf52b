"""Benchmarks of training in several processes: one section a file."""
