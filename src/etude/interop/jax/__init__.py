"""JAX: the learning rate of a pure training step."""

from etude.interop.jax.tuning import tune

__all__ = ["tune"]
