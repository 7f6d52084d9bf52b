"""An observer of the gradient's norm."""

from __future__ import annotations

from torch import Tensor

from etude.training.gradient.clipping import gradient_norm
from etude.training.observer import Observer
from etude.training.state.state import RunState


class GradientNorm(Observer):
    """Records the norm of each update's gradient, after any clipping.

        ‖g‖ = (Σ g²)^(1/2) over all parameters that have a gradient

    >>> import torch, etude
    >>> from torch import nn
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = etude.Task(nn.Linear(1, 1), (x, 3 * x), loss=nn.functional.mse_loss)
    >>> recipe = etude.Recipe(lr=0.1, steps=20, batch_size=16)
    >>> record = etude.train(task, recipe, observers=[GradientNorm()])
    >>> bool((record.series["gradient_norm"] > 0).all())
    True
    """

    reads = ("gradients",)

    def on_gradient(self, state: RunState) -> Tensor:
        """Return the norm as a tensor on the device."""
        return gradient_norm(state.parameters)
