"""Cautious AdamW: only the entries whose update agrees with the gradient's sign move."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.adam_direction import adam_direction
from etude.optimizers.classes.gather import Loss, loss_of
from etude.torch_internals import foreach


class CautiousAdamW(Optimizer):
    """AdamW whose update is masked where it would go against the gradient.

        m ← β1 m + (1 - β1) g,    v ← β2 v + (1 - β2) g²
        u = m̂ / (√v̂ + ε),    m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)
        φ = 1 where u g > 0, else 0
        w ← (1 - lr λ) w - lr (n / (Σφ + 1)) φ u,    n entries per tensor

    t is the number of updates in which the tensor had a gradient.

    Args:
        params: Parameters, or groups of them.
        lr: The rate.
        betas: (β1, β2).
        eps: ε.
        weight_decay: λ, decoupled.

    Source: Liang et al. 2024, arXiv:2411.16085, algorithm 1.

    >>> w = torch.nn.Parameter(torch.zeros(3))
    >>> optimizer = CautiousAdamW([w], lr=0.1)
    >>> w.grad = torch.ones(3)
    >>> optimizer.step()
    >>> [round(x, 4) for x in w.tolist()]
    [-0.075, -0.075, -0.075]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            parameters, gradients, first, updates = adam_direction(self, group)
            if not parameters:
                continue
            for update, moment, gradient in zip(updates, first, gradients, strict=True):
                agrees = (moment * gradient > 0).to(update.dtype)
                update.mul_(agrees.mul_(agrees.numel() / (agrees.sum() + 1)))
            if group["weight_decay"]:
                foreach.mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            foreach.add_(parameters, updates, alpha=-group["lr"])
        return loss
