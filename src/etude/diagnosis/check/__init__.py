"""What is checked before training: one file for each kind of check."""
