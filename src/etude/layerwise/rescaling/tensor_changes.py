"""How one step of an optimizer changed some tensors, and how a ratio scales that change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etude.torch_internals import foreach


class TensorChanges:
    """The change Δ of tensors by a step, with what a ratio of each is computed from.

    Attributes:
        sizes: ‖w‖ of each tensor before the step.
        lengths: ‖Δ‖ of each.
        rates: The rate of each.

    Args:
        places: The tensors, each with the index of its group in the optimizer.
        kept: Their values before the step.
        rates: The rate of each of the optimizer's groups.
    """

    def __init__(
        self, places: Sequence[tuple[Tensor, int]], kept: list[Tensor], rates: Sequence[Any]
    ) -> None:
        self._values = [parameter.detach() for parameter, _ in places]
        self._kept = kept
        self._changes = foreach.sub(self._values, kept)
        self.sizes, self.lengths = norms(kept), norms(self._changes)
        self.rates = torch.stack(
            [torch.as_tensor(rates[group], dtype=torch.float32) for _, group in places]
        ).to(self.sizes.device, non_blocking=self.sizes.is_cuda)

    def scale(self, ratios: Tensor) -> None:
        """Replace each change Δ by ratio · Δ."""
        foreach.mul_(self._changes, _like(ratios, self._values))
        foreach.copy_(self._values, foreach.add(self._kept, self._changes))

    def restore_sizes(self) -> None:
        """Scale each tensor to the norm that it had before the step."""
        foreach.mul_(self._values, _like(self.sizes / norms(self._values), self._values))


def copies(places: Sequence[tuple[Tensor, int]]) -> list[Tensor]:
    """Return copies of the values of tensors."""
    return [parameter.detach().clone() for parameter, _ in places]


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the norm of each tensor, in float32.

    >>> norms([torch.tensor([3.0, 4.0]), torch.zeros(2)]).tolist()
    [5.0, 0.0]
    """
    return torch.stack([norm.float() for norm in foreach.norm(list(tensors))])


def _like(numbers: Tensor, values: list[Tensor]) -> list[Tensor]:
    return [number.to(value.dtype) for number, value in zip(numbers.unbind(), values, strict=True)]
