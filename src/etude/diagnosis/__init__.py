"""Diagnosis: what is wrong with a training run, in which layer, and since when."""
