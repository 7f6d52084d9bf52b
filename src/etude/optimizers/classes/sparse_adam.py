"""Adam that updates only the rows in a sparse gradient, and plain Adam for dense gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer, SparseAdam
from torch.optim.optimizer import ParamsT

from etude.optimizers.classes.gather import Loss, loss_of
from etude.optimizers.classes.halves import placeholder, step_part


class SparseDenseAdam(Optimizer):
    """Lazy Adam for sparse gradients, Adam for dense gradients, at one rate.

        rows i in the gradient:  m_i ← β1 m_i + (1 - β1) g_i,   v_i ← β2 v_i + (1 - β2) g_i²
                                 w_i ← w_i - lr m̂_i / (√v_i + ε)   (bias-corrected as in Adam)
        every other row:         unchanged, and so are its moments

    torch's SparseAdam refuses dense gradients, so it cannot train a model that has both an
    embedding with sparse gradients and dense layers.

    Args:
        params: Parameters, or groups of them.
        lr: The rate.
        betas: (β1, β2).
        eps: ε.

    Source: Kingma & Ba 2015, arXiv:1412.6980. Both updates are those of torch.optim.

    >>> table = torch.nn.Embedding(3, 1, sparse=True)
    >>> optimizer = SparseDenseAdam(table.parameters(), lr=0.1)
    >>> before = table.weight.detach().clone()
    >>> table(torch.tensor([1])).sum().backward()
    >>> optimizer.step()
    >>> (before - table.weight).flatten().tolist()[::2]
    [0.0, 0.0]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        dense = Adam(placeholder(), lr=lr, betas=betas, eps=eps)
        super().__init__(params, dict(dense.defaults))

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        groups = self.param_groups
        step_part(
            SparseAdam(placeholder()),
            self,
            [(group, _with(group, sparse=True)) for group in groups],
        )
        step_part(
            Adam(placeholder()), self, [(group, _with(group, sparse=False)) for group in groups]
        )
        return loss


def _with(group: dict[str, Any], *, sparse: bool) -> Iterable[Tensor]:
    return (p for p in group["params"] if p.grad is not None and p.grad.is_sparse == sparse)
