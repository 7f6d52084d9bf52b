"""Damped Newton: the exact Hessian of a small model, with adaptive damping."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from etude.errors import BadValueError
from etude.optimizers.classes.hessian import Hessian, move, put, twice_differentiable
from etude.optimizers.classes.one_group import OneGroup

LIMIT = 2_000
"""The largest number of parameters: the matrix takes 16 MB in float32, and 2.7 GFLOP to factor."""

FACTOR = 4.0
TRIES = 12


class DampedNewton(OneGroup):
    """Newton's method with adaptive damping (Levenberg-Marquardt).

        w ← w - lr (H + λ I)⁻¹ ∇f(w)

    λ starts at `damping`. It is multiplied by 4 until H + λ I is positive definite and the loss
    on the same batch does not rise. It is divided by 4, but not below `damping`, after a step whose
    effect agrees with the quadratic model. If no λ gives a step that does not raise the loss, the
    parameters do not change.

    Args:
        params: Parameters, in one group; at most 2,000 scalars in total.
        lr: The share of the step that is taken; 1 is the full Newton step.
        damping: The smallest λ.

    Raises:
        BadValueError: If there are more scalars, or several groups.

    Source: Levenberg 1944; Marquardt 1963; the ratio test of Nocedal & Wright 2006, section 4.1.

    >>> w = torch.nn.Parameter(torch.tensor([4.0]))
    >>> optimizer = DampedNewton([w], damping=1e-6)
    >>> _ = optimizer.step(lambda: (w - 1).square().sum())
    >>> round(w.item(), 4)
    1.0
    """

    row_name: ClassVar[str] = "newton"

    def __init__(self, params: ParamsT, lr: float = 1.0, damping: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr, "damping": damping})
        count = sum(p.numel() for p in self.param_groups[0]["params"])
        if count > LIMIT:
            raise BadValueError(
                f"newton computes the whole Hessian, and {count} parameters are more than {LIMIT}: "
                "use newton_cg, which only needs products with it"
            )
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
            matrix, gradient = hessian.matrix().double(), hessian.gradient.double()
        self.products += hessian.products
        first, lr = float(loss.detach()), float(group["lr"])
        if lr == 0 or not math.isfinite(first) or not bool(torch.isfinite(matrix).all()):
            return loss.detach()
        state = self.state[parameters[0]]
        damping = max(float(state.get("damping", 0.0)), float(group["damping"]))
        before = [p.clone() for p in parameters]
        for _ in range(TRIES):
            factor, bad = torch.linalg.cholesky_ex(_damped(matrix, damping))
            if bad:
                damping *= FACTOR
                continue
            direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
            predicted = lr * float(gradient @ direction)
            predicted += lr**2 / 2 * float(direction @ (matrix @ direction))
            move(parameters, direction.to(hessian.gradient.dtype), lr)
            change = float(closure().detach()) - first
            if change <= 0:
                ratio = change / predicted if predicted < 0 else 0.0
                damping *= FACTOR if ratio < 0.25 else 1 / FACTOR if ratio > 0.75 else 1
                break
            put(parameters, before)
            damping *= FACTOR
        state["damping"] = max(damping, float(group["damping"]))
        return loss.detach()


def _damped(matrix: Tensor, damping: float) -> Tensor:
    return matrix + damping * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
