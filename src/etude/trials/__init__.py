"""Trials: recipes in training that pause and go on, paired and paid for."""
