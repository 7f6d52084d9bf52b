"""Muon for the matrices of a model, AdamW for everything else, at one rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from etude.errors import MissingExtraError
from etude.optimizers.gather import Loss, loss_of
from etude.optimizers.halves import placeholder, serve

try:
    from torch.optim import Muon
except ImportError as error:
    raise MissingExtraError(
        f"optimizer 'muon' is torch.optim.Muon, which torch {torch.__version__} lacks: "
        "pip install 'torch>=2.9', or choose another optimizer"
    ) from error


class MuonAdamW(Optimizer):
    """Momentum whose matrix is brought to equal singular values before it is applied.

        matrices:  B ← μ B + (1 - μ) g,   U = (1 - μ) g + μ B  (Nesterov), else B
                   w ← (1 - lr λ) w - lr 0.2 √max(rows, columns) · NewtonSchulz(U)
        the rest:  AdamW with the same lr and λ

    The factor 0.2 √max(rows, columns) gives a matrix the root mean square of AdamW's update, so
    that one rate serves both halves. A 2-D tensor is a matrix unless its group says
    `"matrix": False`, which `etude.optimizers.build` writes for embeddings.

    Args:
        params: Parameters, or groups of them.
        lr: The rate of both halves.
        momentum: μ.
        nesterov: Whether to look ahead.
        ns_steps: Newton-Schulz iterations.
        weight_decay: λ, decoupled.
        betas: AdamW's (β1, β2).
        eps: AdamW's ε.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; the factor: Liu et al.
    2025, arXiv:2502.16982. Both halves are torch.optim's.

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
        muon = Muon(placeholder(), adjust_lr_fn="match_rms_adamw")
        # The two epsilons differ: Muon's guards a division by the norm of a whole matrix.
        own = {k: muon.defaults[k] for k in ("ns_coefficients", "adjust_lr_fn", "eps")}
        groups = self.param_groups
        serve(muon, self, [({**group, **own}, _matrices(group)) for group in groups])
        serve(AdamW(placeholder()), self, [(group, _rest(group)) for group in groups])
        return loss


def _is_matrix(group: dict[str, Any], parameter: Tensor) -> bool:
    return bool(group["matrix"]) and parameter.ndim == 2


def _matrices(group: dict[str, Any]) -> Iterable[Tensor]:
    return (p for p in group["params"] if _is_matrix(group, p))


def _rest(group: dict[str, Any]) -> Iterable[Tensor]:
    return (p for p in group["params"] if not _is_matrix(group, p))
