"""The norm of the gradient of every update."""

from __future__ import annotations

from torch import Tensor, nn

from etude.training.observer import Observer
from etude.training.state import RunState


class GradientNorm(Observer):
    """Reads the norm of the gradient, clipped where the recipe clips it.

        ‖g‖ = (Σ g²)^(1/2) over all parameters that have a gradient

    >>> import torch, etude
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = etude.Task(nn.Linear(1, 1), (x, 3 * x), loss=nn.functional.mse_loss)
    >>> recipe = etude.Recipe(lr=0.1, steps=20, batch_size=16)
    >>> record = etude.train(task, recipe, observers=[GradientNorm()])
    >>> bool((record.series["gradient_norm"] > 0).all())
    True
    """

    reads = ("gradients",)

    def on_gradient(self, state: RunState) -> Tensor:
        """Return the norm, on the device."""
        gradients = [p.grad for p in state.parameters if p.grad is not None]
        dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
        return nn.utils.get_total_norm(dense)
