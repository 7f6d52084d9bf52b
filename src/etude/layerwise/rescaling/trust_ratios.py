"""Scales the updates of tensors by their trust ratios."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.layerwise.policies.trust import Trust
from etude.layerwise.rescaling.tensor_changes import TensorChanges, copies


class TrustRatios:
    """Tensors whose update is scaled by a trust ratio after each step.

    Args:
        trust: The coefficient and the bounds.
        places: The tensors, each with the index of its group in the optimizer.
    """

    def __init__(self, trust: Trust, places: list[tuple[Tensor, int]]) -> None:
        self.trust = trust
        self.places = places
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Save the values before a step."""
        self._kept = copies(self.places)

    def rescale(self, rates: list[Any]) -> None:
        """Multiply the change Δ of each tensor by coefficient · clip(‖w‖) / ‖Δ / lr‖.

        Args:
            rates: The rate of each of the optimizer's groups.
        """
        step = TensorChanges(self.places, self._kept, rates)
        bounded = step.sizes.clamp(self.trust.low, self.trust.high)
        ratios = self.trust.coefficient * bounded * step.rates / step.lengths
        known = (step.sizes > 0) & (step.lengths > 0)
        step.scale(torch.where(known, ratios, torch.ones_like(ratios)))
