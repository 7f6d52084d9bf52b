"""The search over learning rates: which rates start, which go on, which is finished."""
