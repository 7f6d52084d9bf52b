"""Tune the learning rate of a pure training step of JAX, with optax inside."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_wine

from etude.interop.jax import tune

wine = load_wine()
order = jax.random.permutation(jax.random.key(0), len(wine.target))
inputs = jnp.asarray((wine.data - wine.data.mean(0)) / wine.data.std(0), jnp.float32)[order]
labels = jnp.asarray(wine.target)[order]
batches = [(inputs[i : i + 20], labels[i : i + 20]) for i in range(0, 140, 20)]
adam = optax.scale_by_adam()


def losses(weights: Any, x: Any, y: Any) -> Any:
    """Return the loss of each sample."""
    outputs = x @ weights["matrix"] + weights["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(outputs, y)


def step(state: Any, batch: Any, lr: Any) -> tuple[Any, Any]:
    """Make one update."""
    weights, inner = state
    loss, gradient = jax.value_and_grad(lambda w: losses(w, *batch).mean())(weights)
    updates, inner = adam.update(gradient, inner)
    return (jax.tree.map(lambda w, u: w - lr * u, weights, updates), inner), loss


def valid(state: Any) -> Any:
    """Return the loss of each sample that is held out."""
    return losses(state[0], inputs[140:], labels[140:])


if __name__ == "__main__":
    start = {"matrix": jnp.zeros((13, 3)), "bias": jnp.zeros(3)}
    best = tune(step, (start, adam.init(start)), batches, steps=200, valid=valid)
    print(f"rate {best.lr}, ties with {best.tied}, for {best.cost:.2f} full runs")
