"""Engines: several runs of one task, taken further together."""
