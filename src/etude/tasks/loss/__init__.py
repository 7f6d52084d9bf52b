"""Losses, and the weights by which the losses of unequal batches are combined."""
