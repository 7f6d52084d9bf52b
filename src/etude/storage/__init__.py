"""Run folders and checkpoints: which file is what, and how it is read back safely."""
