"""The policy of trust ratios: the size of a tensor's update follows the tensor's norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from etude.layerwise.parts import Part
from etude.layerwise.policies.policy import Factor, Policy, Setting, number


@dataclass(frozen=True, repr=False)
class Trust(Policy):
    """A trust ratio on each tensor's update: LAMB around AdamW, LARS-like around SGD.

    With w the tensor, Δ the optimizer's own update at rate lr and u = −Δ / lr:
    r = coefficient · min(max(‖w‖, low), high) / ‖u‖, and Δ becomes r · Δ. Biases, normalisations
    and other parameters of one axis keep Δ, and so does a tensor if ‖w‖ or ‖u‖ is 0. A tensor of
    multiplier 0 does not change; a tensor with separate multipliers for its rows is refused.

    Args:
        coefficient: 1 for LAMB, about 0.001 for LARS.
        low: Lower bound of the norm of w.
        high: Upper bound of the norm of w, or None.

    Source: You et al. 2020 (LAMB), arXiv:1904.00962, algorithm 2; You et al. 2017 (LARS).
    """

    name: ClassVar[str] = "trust"
    what: ClassVar[str] = "a trust ratio"
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
        """Return the factors: 1 for each part, since the ratio is measured at every update."""
        return [Factor() for _ in parts]

    def scales(self, part: Part) -> bool:
        """Return whether a part's update is scaled."""
        return len(part.shape) >= 2 and not part.bias and part.kind != "normalisation"
