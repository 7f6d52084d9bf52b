"""Muon for the matrices and kernels of a model, AdamW for everything else, at one rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from etude.optimizers.gather import Loss, gather, loss_of
from etude.optimizers.halves import placeholder, serve

A, B, C = 3.4445, -4.7750, 2.0315
"""The quintic a x + b x³ + c x⁵ that brings every singular value near 1; Jordan et al."""

SMALLEST = 1e-7
"""The norm that a matrix is taken to have at least."""


class MuonAdamW(Optimizer):
    """Momentum whose matrix is brought to equal singular values before it is applied.

        matrices:  B ← μ B + (1 - μ) g,   U = (1 - μ) g + μ B  (Nesterov), else B
                   w ← (1 - lr λ) w - lr 0.2 √max(rows, columns) · NewtonSchulz(U)
        the rest:  AdamW with the same lr and λ

    A kernel counts as the matrix of its outputs against all else: its axes after the first are
    laid end to end. The factor 0.2 √max(rows, columns) gives a matrix the root mean square of
    AdamW's update, so that one rate serves both halves. A tensor of two or more axes is a matrix
    unless its group says `"matrix": False`, which `etude.optimizers.build` writes for what should
    not be one.

    Args:
        params: Parameters, or groups of them.
        lr: The rate of both halves.
        momentum: μ.
        nesterov: Whether to look ahead.
        ns_steps: Newton-Schulz iterations.
        weight_decay: λ, decoupled.
        betas: AdamW's (β1, β2).
        eps: AdamW's ε.
        matrix: Which tensors are matrices, in words that `build` reads; not used here.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the factor: Liu et al.
    2025, arXiv:2502.16982. The rest is torch.optim's AdamW; of matrices the bits are those of
    torch.optim.Muon, which takes no kernels.

    >>> w, b = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = MuonAdamW([w, b], lr=0.1)
    >>> w.grad, b.grad = torch.eye(2), torch.ones(2)
    >>> optimizer.step()
    >>> [round(x, 3) for x in b.tolist()]
    [-0.1, -0.1]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        matrix: Any = ("hidden",),
    ) -> None:
        # Groups hold both halves' settings; `capturable` and the like are AdamW's own defaults.
        rest = AdamW(placeholder(), lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        defaults = {
            **rest.defaults,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "matrix": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            self._move_matrices(group)
        serve(AdamW(placeholder()), self, [(group, _rest(group)) for group in self.param_groups])
        return loss

    def _move_matrices(self, group: dict[str, Any]) -> None:
        matrices = {**group, "params": [p for p in group["params"] if _is_matrix(group, p)]}
        parameters, gradients, (buffers,) = gather(self, matrices, "momentum_buffer")
        momentum, rate = group["momentum"], group["lr"]
        for parameter, gradient, buffer in zip(parameters, gradients, buffers, strict=True):
            buffer.lerp_(gradient, 1 - momentum)
            ahead = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
            update = orthogonal(ahead.flatten(1), group["ns_steps"])
            size = 0.2 * max(update.shape) ** 0.5
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-rate * size)


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Return a matrix of the same singular vectors, its singular values brought near 1.

        X ← G / ‖G‖,  then `steps` times  X ← a X + (b S + c S²) X  with S = X Xᵀ

    in bfloat16, of the transposed matrix where it has more rows than columns.

    Args:
        matrix: G, of two axes.
        steps: Iterations; 5 bring singular values into about [0.7, 1.2].

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.bfloat16()
    found = found.T if tall else found
    found = found / found.norm().clamp(min=SMALLEST)
    for _ in range(steps):
        square = found @ found.T
        found = torch.addmm(
            found, torch.addmm(square, square, square, beta=B, alpha=C), found, beta=A
        )
    return found.T.contiguous() if tall else found


def _is_matrix(group: dict[str, Any], parameter: Tensor) -> bool:
    return bool(group["matrix"]) and parameter.ndim >= 2 and not parameter.is_complex()


def _rest(group: dict[str, Any]) -> Iterable[Tensor]:
    return (p for p in group["params"] if not _is_matrix(group, p))
