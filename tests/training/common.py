"""What the tests of runs that fail share."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from etude import Recipe
from tests import helpers


def data(count: int = 48) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x[:, 0] > 0).long()


mlp = partial(helpers.mlp, 6, 10, 2)


BASE = Recipe(optimizer="sgd", lr=0.1, steps=40, batch_size=8)


class BreaksLate:
    """A loss whose values on the validation data break at an evaluation, the first being 0."""

    def __init__(self, at: int, values: list[float]) -> None:
        self.at, self.values = at, values
        self.evaluation, self.place = -1, -1

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        loss = cross_entropy(output, target)
        if output.requires_grad:
            return loss
        before, self.place = self.place, target.storage_offset()  # ten rows are ten slices
        self.evaluation += self.place == 0 and before != 0
        breaks = self.evaluation == self.at and self.place < len(self.values)
        return loss + self.values[self.place] if breaks else loss


X, Y = data()
