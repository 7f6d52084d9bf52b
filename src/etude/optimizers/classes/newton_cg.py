"""Newton-CG: solves for the Newton step by conjugate gradients and Hessian-vector products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.hessian import Hessian, move, put, twice_differentiable
from etude.optimizers.classes.one_group import OneGroup

ARMIJO = 1e-4
HALVINGS = 20


class NewtonCG(OneGroup):
    """Truncated Newton with a line search.

        solve (H + λ I) d = -g by conjugate gradients, until the residual is at most
        min(½, √‖g‖) ‖g‖, the curvature is negative, or after `iterations` products
        w ← w + α d,   α = lr, lr/2, lr/4, ... until f falls by 10⁻⁴ α |g·d|

    On negative curvature the solver returns its current direction, or the negative gradient in the
    first iteration. If no step lowers the loss enough, the parameters do not change. The memory
    needed is that of a few gradients.

    Args:
        params: Parameters, in one group.
        lr: The first α; 1 is the full Newton step.
        damping: λ.
        iterations: The largest number of products with the Hessian in one update.

    Raises:
        BadValueError: If there are several groups.

    Source: Dembo & Steihaug 1983; Martens 2010; Nocedal & Wright 2006, algorithm 7.1.

    >>> w = torch.nn.Parameter(torch.tensor([4.0, -2.0]))
    >>> optimizer = NewtonCG([w], damping=0.0)
    >>> for _ in range(3):
    ...     _ = optimizer.step(lambda: (torch.tensor([1.0, 50.0]) * w**2).sum())
    >>> w.abs().max().item() < 1e-3
    True
    """

    row_name: ClassVar[str] = "newton_cg"

    def __init__(
        self, params: ParamsT, lr: float = 1.0, damping: float = 1e-3, iterations: int = 30
    ) -> None:
        super().__init__(params, {"lr": lr, "damping": damping, "iterations": iterations})
        self.products = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Any:  # type: ignore[override]
        """Do one update.

        Args:
            closure: A function that returns the loss with its graph, and sets no gradient.
        """
        group = self.param_groups[0]
        parameters = [p for p in group["params"] if p.requires_grad]
        with twice_differentiable():
            loss = closure()
            hessian = Hessian(loss, parameters)
            direction = solve(hessian, float(group["damping"]), int(group["iterations"]))
        self.products += hessian.products
        first, length = float(loss.detach()), float(group["lr"])
        slope = float(hessian.gradient @ direction)
        if length == 0 or not math.isfinite(first) or not slope < 0:
            return loss.detach()
        before = [p.clone() for p in parameters]
        for _ in range(HALVINGS):
            move(parameters, direction, length)
            if float(closure().detach()) <= first + ARMIJO * length * slope:
                return loss.detach()
            put(parameters, before)
            length /= 2
        return loss.detach()


def solve(hessian: Hessian, damping: float, iterations: int) -> Tensor:
    """Return an approximate solution d of (H + damping·I) d = -gradient, a descent direction."""
    residual = hessian.gradient.clone()
    direction = torch.zeros_like(residual)
    along = -residual
    square = float(residual @ residual)
    size = math.sqrt(square)
    target = min(0.5, math.sqrt(size)) * size
    for index in range(iterations):
        if math.sqrt(square) <= target:
            break
        product = hessian.times(along) + damping * along
        curvature = float(along @ product)
        if not curvature > 0:
            return -hessian.gradient if index == 0 else direction
        length = square / curvature
        direction = direction + length * along
        residual = residual + length * product
        new_square = float(residual @ residual)
        along = -residual + (new_square / square) * along
        square = new_square
    return direction
