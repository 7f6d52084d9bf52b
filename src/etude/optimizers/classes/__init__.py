"""The optimizers that Etude implements or wraps, as classes of torch optimizers."""
