"""Keeps the norms of tensors, and gives each update of them a length in proportion to its norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.errors import BadValueError
from etude.torch_internals import foreach


class FixedNorms:
    """Tensors whose norm stays as it is; see `etude.layerwise.hyperball.Hyperball`.

    Args:
        places: The tensors, each with the index of its group in the optimizer.
        names: Their names, for messages.

    Raises:
        BadValueError: If a tensor is 0, and so has no norm to keep.
    """

    def __init__(self, places: list[tuple[Tensor, int]], names: list[str]) -> None:
        for (parameter, _), name in zip(places, names, strict=True):
            if not bool(parameter.detach().any()):
                raise BadValueError(
                    f"hyperball() keeps the norm of {name}, which begins with zeros: initialise it "
                    "with other values, or leave hyperball() out"
                )
        self.places = places
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Save the values before a step."""
        self._kept = [parameter.detach().clone() for parameter, _ in self.places]

    def rescale(self, rates: list[Any]) -> None:
        """Replace the change Δ by lr · ‖w‖ · Δ / ‖Δ‖, and then restore the norm.

        Args:
            rates: The rate of each of the optimizer's groups.
        """
        values = [parameter.detach() for parameter, _ in self.places]
        changes = foreach.sub(values, self._kept)
        sizes, moves = _norms(self._kept), _norms(changes)
        own = torch.stack(
            [torch.as_tensor(rates[group], dtype=torch.float32) for _, group in self.places]
        ).to(sizes.device)
        ratios = torch.where(moves > 0, own * sizes / moves, torch.zeros_like(moves))
        # A change that is not finite must stay visible: the run has diverged.
        ratios = torch.where(moves.isfinite(), ratios, torch.full_like(ratios, torch.nan))
        foreach.mul_(changes, _like(ratios, values))
        foreach.copy_(values, foreach.add(self._kept, changes))
        foreach.mul_(values, _like(sizes / _norms(values), values))


def _norms(tensors: list[Tensor]) -> Tensor:
    return torch.stack([norm.float() for norm in foreach.norm(tensors)])


def _like(numbers: Tensor, values: list[Tensor]) -> list[Tensor]:
    return [number.to(value.dtype) for number, value in zip(numbers.unbind(), values, strict=True)]
