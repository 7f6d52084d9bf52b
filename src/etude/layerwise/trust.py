"""The policy of trust ratios: how far a tensor moves depends on how large it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from etude.layerwise.parts import Part
from etude.layerwise.policy import Factor, Policy, Setting, number


@dataclass(frozen=True, repr=False)
class Trust(Policy):
    """A trust ratio on each tensor's update: LAMB around AdamW, LARS-like around SGD.

    With w the tensor, Δ the optimizer's own update at rate lr and u = −Δ / lr:
    r = coefficient · min(max(‖w‖, low), high) / ‖u‖, and Δ becomes r · Δ. Biases, normalisations
    and anything else of one axis keep Δ, and so does a tensor where ‖w‖ or ‖u‖ is 0. A tensor of
    multiplier 0 stays where it is; one of which rows have multipliers of their own is refused.

    Args:
        coefficient: 1 for LAMB, about 0.001 for LARS.
        low: Least norm of w that counts.
        high: Largest norm of w that counts, None for no bound.

    Source: You et al. 2020 (LAMB), arXiv:1904.00962, algorithm 2; You et al. 2017 (LARS).
    """

    name: ClassVar[str] = "trust"
    coefficient: float = 1.0
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        self.put(
            coefficient=number("trust", "coefficient", self.coefficient, open_low=True),
            low=number("trust", "low", self.low),
        )
        if self.high is not None:
            high = number("trust", "high", self.high, low=self.low, open_low=True)
            self.put(high=high)

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return 1 for each part: the ratio is measured at every update instead."""
        return [Factor() for _ in parts]

    def scales(self, part: Part) -> bool:
        """Say whether a part's update is scaled."""
        return len(part.shape) >= 2 and not part.bias and part.kind != "normalisation"
