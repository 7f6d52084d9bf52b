"""Adam without bias correction, as some textbooks define it."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.gather import Loss, gather, loss_of
from etude.torch_internals import foreach


class UncorrectedAdam(Optimizer):
    """Adam without bias correction: both moments start at 0 and are used directly.

        g ← ∇f(w) + λ w
        m ← β1 m + (1 - β1) g,    v ← β2 v + (1 - β2) g²
        w ← w - lr m / (√v + ε)

    The first update is lr (1 - β1) / √(1 - β2), 3.2 lr by default, where Adam's is lr.

    Args:
        params: Parameters, or groups of them.
        lr: The rate.
        betas: (β1, β2).
        eps: ε.
        weight_decay: λ, in the gradient.

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1 without its two corrections.

    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = UncorrectedAdam([w], lr=0.1)
    >>> w.grad = torch.tensor([0.5])
    >>> optimizer.step()
    >>> round(w.item(), 4)
    0.6838
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            parameters, gradients, (first, second) = gather(self, group, "exp_avg", "exp_avg_sq")
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            if group["weight_decay"]:
                gradients = list(foreach.add(gradients, parameters, alpha=group["weight_decay"]))
            foreach.lerp_(first, gradients, 1 - beta1)
            foreach.mul_(second, beta2)
            foreach.addcmul_(second, gradients, gradients, value=1 - beta2)
            scales = foreach.sqrt(second)
            foreach.add_(scales, group["eps"])
            foreach.addcdiv_(parameters, first, scales, value=-group["lr"])
        return loss
