"""An optimizer that nobody has: what a user of Etude may write and register."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from etude.optimizers.hyperparameters import Number
from etude.optimizers.row import OptimizerRow


class Softsign(Optimizer):
    """w ← w - lr · g / (|g| + eps), with weight decay joined to the gradient."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        eps: float = 0.1,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    g = p.grad + group["weight_decay"] * p
                    p.sub_(group["lr"] * g / (g.abs() + group["eps"]))
        return loss


ROW = OptimizerRow(
    name="softsign",
    factory="tests.optimizers.made_up:Softsign",
    lr=1e-2,
    centre=-1.5,
    paper="none: a test's own",
    when="a test that registers a row and nothing else",
    hyperparameters={"eps": Number(0.1, above=True), "weight_decay": Number(0.0)},
    family="adam",
    suits={"recurrent": (0.3, "it is made up for them")},
)
