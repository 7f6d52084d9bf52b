"""Optimizers of one's own, as a user's module holds them."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer


class Signs(Optimizer):
    """Steps of the sign of a momentum, after which the weights decay."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        powers: tuple[int, int] = (1, 1),
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "powers": powers}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                kept = self.state[p].setdefault("kept", torch.zeros_like(p))
                kept.mul_(group["momentum"]).add_(p.grad)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * kept.sign() * group["powers"][0])


class MyAdamW(AdamW):
    """AdamW under another name."""


class Needy(Optimizer):
    """Takes an argument that only its user knows."""

    def __init__(self, params: Any, lr: float, total: int) -> None:
        super().__init__(params, {"lr": lr, "total": total})


class Rateless(Optimizer):
    """Has no rate."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})


def two_rates(groups: Any, lr: float) -> Optimizer:
    """The first tensor at the rate, all others at a quarter of it."""
    (group,) = groups
    first, *others = group["params"]
    return SGD([{"params": [first]}, {"params": others, "lr": lr / 4}], lr=lr, momentum=0.9)
