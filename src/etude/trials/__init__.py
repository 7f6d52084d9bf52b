"""Trials: training runs of recipes that can be paused and continued, and the pool of them."""
