"""torch's L-BFGS with its line search enabled, which makes it a safe default."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import LBFGS as TORCH
from torch.optim.optimizer import ParamsT

from etude.errors import TaskError
from etude.optimizers.classes.gather import Loss, loss_of, real
from etude.optimizers.classes.one_group import OneGroup


class LBFGS(OneGroup, TORCH):
    """torch's L-BFGS with the strong Wolfe line search, which torch does not use by default.

        d = -(an estimate of H⁻¹ from the last `history_size` changes of w and ∇f) ∇f
        w ← w + t d, t from the line search, which begins at lr; up to `max_iter` times

    Without a line search it takes the full step, which diverges on most networks. At lr 0 the
    search has no step to start from, and only the loss is evaluated.

    Args:
        params: Parameters, in one group.
        lr: The first t.
        max_iter: Iterations in one update.
        tolerance_grad: The update ends when no entry of the gradient is larger.
        tolerance_change: The update ends when nothing changes by more.
        history_size: The number of changes that are stored.

    Raises:
        BadValueError: If there are several groups.
        TaskError: If the line search divides by zero, as it may in float16.

    Source: Liu & Nocedal 1989; Nocedal & Wright 2006, algorithms 7.4 and 3.5.

    >>> w = torch.nn.Parameter(torch.tensor([4.0]))
    >>> optimizer = LBFGS([w])
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (w - 1).square().sum()
    ...     loss.backward()
    ...     return loss
    >>> _ = optimizer.step(closure)
    >>> round(w.item(), 4)
    1.0
    """

    row_name: ClassVar[str] = "lbfgs"

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        max_iter: int = 20,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            max_iter=max_iter,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn="strong_wolfe",
        )

    def _gather_flat_grad(self) -> Tensor:
        # torch's version uses a view, which a gradient in channels-last layout does not support.
        rows = []
        for p in self._params:
            gradient = torch.zeros_like(p) if p.grad is None else p.grad
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            rows += [row.reshape(-1) for row in real([gradient])]
        return torch.cat(rows)

    def step(self, closure: Loss) -> Any:  # type: ignore[override]
        """Do one update."""
        if self.param_groups[0]["lr"] == 0:
            return loss_of(closure)
        try:
            return super().step(closure)  # type: ignore[no-untyped-call]
        except ZeroDivisionError as error:
            kinds = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in self._params}))
            raise TaskError(
                f"the line search of lbfgs cannot resolve a smaller step in {kinds}: train in "
                "float32 or float64, with larger batches, or with adamw"
            ) from error
