"""LAMB: Adam's direction, scaled to a share of the tensor's norm."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.adam_direction import adam_direction
from etude.optimizers.classes.gather import Loss, loss_of
from etude.torch_internals import foreach


class Lamb(Optimizer):
    """Layer-wise adaptive moments.

        m ← β1 m + (1 - β1) g,    v ← β2 v + (1 - β2) g²
        u ← m̂ / (√v̂ + ε) + λ w,    m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)
        w ← w - lr (‖w‖ / ‖u‖) u   per tensor; the ratio is 1 where either norm is 0

    t is the number of updates in which the tensor had a gradient.

    pytorch_optimizer's version differs: it decays the weights outside of the ratio, does not
    correct v, and scales its first steps by 1 / (1 - β1^t).

    Args:
        params: Parameters, or groups of them.
        lr: The length of an update as a share of the tensor's norm.
        betas: (β1, β2).
        eps: ε.
        weight_decay: λ, in the direction.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2 with φ(z) = z.

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = Lamb([w], lr=0.1, weight_decay=0.0)
    >>> w.grad = torch.tensor([1.0, 0.0])
    >>> optimizer.step()
    >>> [round(x, 4) for x in w.tolist()]
    [2.5, 4.0]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            parameters, _, _, updates = adam_direction(self, group)
            if not parameters:
                continue
            if group["weight_decay"]:
                foreach.add_(updates, parameters, alpha=group["weight_decay"])
            sizes = torch.stack(foreach.norm(parameters))
            lengths = torch.stack(foreach.norm(updates))
            ratios = torch.where((sizes > 0) & (lengths > 0), sizes / lengths, 1.0)
            foreach.mul_(updates, list(ratios.unbind()))
            foreach.add_(parameters, updates, alpha=-group["lr"])
        return loss
