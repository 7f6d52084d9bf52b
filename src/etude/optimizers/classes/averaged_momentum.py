"""Momentum as an average of gradients: v = β v + (1 - β) g.

torch's SGD keeps the sum v = β v + g; its `dampening=β` gives the average from the second update
on, but the first one is the whole gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.gather import Loss, gather, loss_of
from etude.torch_internals import foreach


class AveragedMomentum(Optimizer):
    """Gradient descent along an exponential average of the gradients.

        g ← ∇f(w) + λ w
        v ← β v + (1 - β) g        (v = 0 before the first update)
        w ← w - lr v

    With a fixed β it equals heavy-ball momentum (`sgd` with momentum β) at rate (1 - β) lr, so that
    the best rate does not depend on β.

    Args:
        params: Parameters, or groups of them.
        lr: The rate.
        momentum: β, in [0, 1).
        weight_decay: λ, in the gradient.

    Source: Polyak 1964; the average as in Kingma & Ba 2015 (their first moment, uncorrected).

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AveragedMomentum([w], lr=1.0, momentum=0.9)
    >>> w.grad = torch.tensor([0.5])
    >>> optimizer.step()
    >>> round(w.item(), 6)
    0.95
    """

    def __init__(
        self, params: ParamsT, lr: float = 1e-3, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            parameters, gradients, (averages,) = gather(self, group, "average")
            if not parameters:
                continue
            if group["weight_decay"]:
                gradients = list(foreach.add(gradients, parameters, alpha=group["weight_decay"]))
            foreach.lerp_(averages, gradients, 1 - group["momentum"])
            foreach.add_(parameters, averages, alpha=-group["lr"])
        return loss
