"""The kinds of schedule: one formula per file."""
