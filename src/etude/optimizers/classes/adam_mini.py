"""Adam-mini: one second moment for each neuron or attention head, not for each entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from etude.errors import BadValueError
from etude.optimizers.classes.gather import Loss, counts, gather, loss_of
from etude.torch_internals import foreach


class AdamMini(Optimizer):
    """AdamW whose second moment is a mean over blocks of a tensor.

        m ← β1 m + (1 - β1) g,    v_b ← β2 v_b + (1 - β2) mean of g² over block b
        w ← (1 - lr λ) w - lr m̂ / (√v̂_b + ε),    m̂ = m / (1 - β1^t),  v̂ = v / (1 - β2^t)

    t is the number of updates in which the tensor had a gradient. A block is one index along the
    first axis: a row of a matrix, an output of a kernel, an entry of a vector. A parameter group
    changes that by `"axis"`, another axis, and `"blocks"`, a number of equal stretches along the
    axis: the number of heads for queries and keys, 1 for a whole tensor. `etude.optimizers.build`
    sets both if it is given the model; see `etude.layerwise.blocks`.

    Args:
        params: Parameters, or groups of them.
        lr: The rate; AdamW's suits.
        betas: (β1, β2).
        eps: ε.
        weight_decay: λ, decoupled.

    Raises:
        BadValueError: If the length of the axis is not a multiple of the blocks of a group.

    Source: Zhang et al. 2024, arXiv:2406.16793, with the blocks of the authors' version 1.1.1.

    >>> w = torch.nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = AdamMini([w], lr=0.1)
    >>> w.grad = torch.tensor([[1.0, 1.0], [1.0, 7.0]])
    >>> optimizer.step()
    >>> [[round(x, 3) for x in row] for row in w.tolist()]
    [[-0.1, -0.1], [-0.02, -0.14]]
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
        super().__init__(params, {**defaults, "axis": 0, "blocks": None})

    @torch.no_grad()
    def step(self, closure: Loss | None = None) -> Any:
        """Do one update."""
        loss = loss_of(closure)
        for group in self.param_groups:
            steps = counts(self, group)
            parameters, gradients, (first,) = gather(self, group, "exp_avg")
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            foreach.lerp_(first, gradients, 1 - beta1)
            means = [_means(g.square(), group["axis"], group["blocks"]) for g in gradients]
            second = self._moments(group, means)
            foreach.mul_(second, beta2)
            foreach.add_(second, means, alpha=1 - beta2)
            sizes = foreach.div(second, [1 - beta2**t for t in steps])
            foreach.sqrt_(sizes)
            foreach.add_(sizes, group["eps"])
            foreach.mul_(sizes, [1 - beta1**t for t in steps])
            if group["weight_decay"]:
                foreach.mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for parameter, moment, size in zip(parameters, first, sizes, strict=True):
                spread = _spread(size, parameter, group["axis"])
                parameter.addcdiv_(moment, spread, value=-float(group["lr"]))
        return loss

    def _moments(self, group: dict[str, Any], means: list[Tensor]) -> list[Tensor]:
        """Return the second moments of the parameters of a group that have a gradient."""
        states = [self.state[p] for p in group["params"] if p.grad is not None]
        for state, mean in zip(states, means, strict=True):
            if "exp_avg_sq" not in state:
                state["exp_avg_sq"] = torch.zeros_like(mean)
        return [state["exp_avg_sq"] for state in states]


def _means(squares: Tensor, axis: int, blocks: int | None) -> Tensor:
    """Return the mean over each block, as a vector.

    Args:
        squares: The squares of a gradient.
        axis: The axis along which blocks lie.
        blocks: The number of equal stretches of the axis; None takes each index alone.
    """
    if not squares.ndim:
        return squares.reshape(1)
    rows = squares.movedim(axis, 0).flatten(1) if squares.ndim > 1 else squares.unsqueeze(1)
    means = rows.mean(1)
    if blocks is None:
        return means
    if len(means) % blocks:
        raise BadValueError(
            f"blocks={blocks} of a parameter group: axis {axis} of a tensor of the shape "
            f"{tuple(squares.shape)} cannot be divided into so many equal stretches: give a "
            f"divisor of {len(means)}"
        )
    return means.reshape(blocks, -1).mean(1)


def _spread(values: Tensor, parameter: Tensor, axis: int) -> Tensor:
    """Return a value for each block in a shape that broadcasts over the parameter."""
    if not parameter.ndim:
        return values.reshape(())
    length = parameter.shape[axis]
    shape = [1] * parameter.ndim
    shape[axis] = length
    return values.repeat_interleave(length // len(values)).reshape(shape)
