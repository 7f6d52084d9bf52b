"""What the tests of curvature share: losses whose Hessian is known."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task
from tests import helpers


class Bowl(nn.Module):
    """Numbers whose loss is half the sum of curvature × number²."""

    def __init__(self, curvatures: tuple[float, ...]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(1, 2, len(curvatures)))
        self.curvatures = torch.tensor(curvatures)

    def forward(self, x: Tensor) -> Tensor:
        return (self.curvatures * self.w**2).sum() / 2 + 0 * x


def bowl(*curvatures: float) -> Task:
    x = torch.zeros(16, 1)
    return Task(lambda: Bowl(curvatures), (x, x), loss=lambda y, _: y.mean(), name="bowl")


def flat(optimizer: Any, lr: float, steps: int = 200, **more: Any) -> Recipe:
    fixed = {"schedule": "constant()", "batch_size": "all", **more}
    return Recipe(optimizer=optimizer, lr=lr, steps=steps, **fixed)


data = cache(partial(helpers.data, 120))


mlp = partial(helpers.noisy, 8, 0.5, nn.Tanh)


def task(model: Any = mlp, **more: Any) -> Task:
    return Task(model, data(), loss=cross_entropy, **more)
