"""No deadline for an example: the first one also pays for imports and for reading the data."""

from hypothesis import settings

settings.register_profile("tasks", deadline=None, max_examples=100)
settings.load_profile("tasks")
