"""Run folders and checkpoints: the names of their files, and how they are read safely."""
