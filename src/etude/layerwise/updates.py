"""Rescales what an optimizer's step changed: rows by a factor, tensors by a trust ratio.

An optimizer has one rate for a tensor. Where some rows of it should have another, the old values
are kept before the step, and after it the change Δ is replaced by ratio · Δ. That is exact for
every optimizer whose update is linear in its rate, number by number, whatever its momentum, its
averages or its weight decay; and it holds no state from one step to the next.

The tensor's own rate is its largest multiplier, so that a ratio is at most 1: w + r·Δ then lies
between the old and the new value, and is as exact as the type of the weights allows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.layerwise.policies import Trust


class Slices:
    """Rows of tensors whose change is rescaled after each step.

    Args:
        places: The parameter, and the first row and one past the last.
    """

    def __init__(self, places: list[tuple[Tensor, int, int]]) -> None:
        self.places = places
        self._parameters = list({id(parameter): parameter for parameter, _, _ in places}.values())
        self._addresses: list[int] = []
        self._active: list[int] = []
        self._weights: list[float] = []
        self._views: list[Tensor] = []
        self._kept: list[Tensor] = []

    def set(self, ratios: list[float]) -> None:
        """Say by what the change of each place is multiplied, in [0, 1]; 1 costs nothing."""
        active = [i for i, ratio in enumerate(ratios) if ratio != 1]
        self._weights = [1 - ratios[i] for i in active]
        if active != self._active:
            self._active, self._addresses = active, []

    def keep(self) -> None:
        """Keep the values before a step."""
        # A weight moves when the model is cast, or goes to a device, between two steps.
        addresses = [parameter.data_ptr() for parameter in self._parameters]
        if addresses != self._addresses:
            self._addresses = addresses
            chosen = [self.places[i] for i in self._active]
            self._views = [parameter.detach()[first:last] for parameter, first, last in chosen]
            self._kept = [torch.empty_like(view) for view in self._views]
        if self._views:
            torch._foreach_copy_(self._kept, self._views)

    def rescale(self) -> None:
        """Replace the change Δ of each by ratio · Δ."""
        if self._views:
            # lerp(new, old, 1 - r) = old + r (new - old), and exactly old where r = 0.
            torch._foreach_lerp_(self._views, self._kept, self._weights)


class TrustRatios:
    """Tensors whose change is scaled by a trust ratio after each step.

    Args:
        trust: The coefficient and the bounds.
        places: The tensors, each with the place of its group in the optimizer.
    """

    def __init__(self, trust: Trust, places: list[tuple[Tensor, int]]) -> None:
        self.trust = trust
        self.places = places
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Keep the values before a step."""
        self._kept = [parameter.detach().clone() for parameter, _ in self.places]

    def rescale(self, rates: list[Any]) -> None:
        """Multiply the change of each by coefficient · clip(‖w‖) / ‖Δ / lr‖.

        Args:
            rates: The rate of each of the optimizer's groups.
        """
        values = [parameter.detach() for parameter, _ in self.places]
        changes = torch._foreach_sub(values, self._kept)
        sizes = torch.stack([norm.float() for norm in torch._foreach_norm(self._kept)])
        moves = torch.stack([norm.float() for norm in torch._foreach_norm(changes)])
        own = torch.stack(
            [torch.as_tensor(rates[group], dtype=torch.float32) for _, group in self.places]
        ).to(sizes.device)
        bounded = sizes.clamp(self.trust.low, self.trust.high)
        ratios = self.trust.coefficient * bounded * own / moves
        ratios = torch.where((sizes > 0) & (moves > 0), ratios, torch.ones_like(ratios))
        each = [ratio.to(value.dtype) for ratio, value in zip(ratios.unbind(), values, strict=True)]
        torch._foreach_mul_(changes, each)
        torch._foreach_copy_(values, torch._foreach_add(self._kept, changes))
