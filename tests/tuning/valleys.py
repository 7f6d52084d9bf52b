"""Tasks of one number whose best rate is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from etude import Recipe, Task


class Valley(nn.Module):
    """One number, whose loss has its best rate where `scale` says."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0]))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (self.w - 1) + 0 * x


def valley(scale: float = 1.0) -> Task:
    x = torch.zeros(40, 1)
    return Task(lambda: Valley(scale), (x, x), loss=mse_loss)


SGD = Recipe(optimizer="sgd", schedule="constant()", batch_size=8)
