"""Muon for the matrices and kernels of a model, AdamW for all other tensors, at one rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.gather import Loss, gather, loss_of
from etude.optimizers.classes.halves import placeholder, step_part
from etude.optimizers.classes.muon_settings import muon_settings

A, B, C = 3.4445, -4.7750, 2.0315
"""The coefficients of a x + b x³ + c x⁵, which maps singular values close to 1; Jordan et al."""

SMALLEST = 1e-7
"""Lower bound of a matrix's norm when it is divided by its norm."""


class MuonAdamW(Optimizer):
    """Muon: applies the momentum of each matrix with its singular values made equal.

        matrices:  B ← μ B + (1 - μ) g,   U = (1 - μ) g + μ B  (Nesterov), else B
                   w ← (1 - lr λ) w - lr 0.2 √max(rows, columns) · NewtonSchulz(U)
        the rest:  AdamW with the same lr and λ

    A kernel is treated as a matrix with one row per output: its axes after the first are flattened.
    The factor 0.2 √max(rows, columns) gives the update of a matrix the root mean square of AdamW's
    update, so that one rate suits both. A tensor of two or more axes is a matrix unless its group
    has `"matrix": False`, which `etude.optimizers.build` sets for all tensors to be trained by
    AdamW.

    Args:
        params: Parameters, or groups of them.
        lr: The rate, of matrices and all other tensors.
        momentum: μ.
        nesterov: Whether to use Nesterov momentum.
        ns_steps: Newton-Schulz iterations.
        weight_decay: λ, decoupled.
        betas: AdamW's (β1, β2).
        eps: AdamW's ε.
        matrix: Selectors of the matrices, which only `build` reads.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the factor: Liu et al.
    2025, arXiv:2502.16982. All other tensors are updated by torch.optim.AdamW. For matrices the
    result is bit for bit that of torch.optim.Muon, which does not support kernels.

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
        adamw = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, muon_settings(momentum, nesterov, ns_steps, **adamw))

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            self._update_matrices(group)
        step_part(
            AdamW(placeholder()), self, [(group, _rest(group)) for group in self.param_groups]
        )
        return loss

    def _update_matrices(self, group: dict[str, Any]) -> None:
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
    """Return a matrix with the same singular vectors and singular values close to 1.

        X ← G / ‖G‖,  then `steps` times  X ← a X + (b S + c S²) X  with S = X Xᵀ

    in bfloat16; of the transposed matrix if it has more rows than columns.

    Args:
        matrix: G, of two axes.
        steps: Iterations; 5 give singular values in about [0.7, 1.2].

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
