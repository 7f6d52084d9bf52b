"""How much a larger batch saves, from the gradient noise scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from etude.record import to_json

HALF = 0.5
"""The least share of the ideal speed-up that a larger batch is worth."""


@dataclass(frozen=True)
class LargeBatch:
    """What a batch of B' instead of B saves, at a gradient noise scale of N samples.

        updates(B) ∝ 1 + N / B,   speed-up = (1 + N / B) / (1 + N / B'),   efficiency = speed-up / κ

    with κ = B' / B. Each doubling saves half of the updates while B is far below N, and almost none
    far above it.

    Attributes:
        before: B, in samples.
        after: B', in samples.
        noise: N, in samples; infinite if no signal was found.

    Source: McCandlish et al. 2018, arXiv:1812.06162, equation 2.11. N is near 0 at the start of a
    run and grows (Merrill et al. 2025, arXiv:2505.23971): measure it later than that.

    >>> found = LargeBatch(100, 400, noise=200.0)
    >>> found.speedup, found.efficiency, found.largest
    (2.0, 0.5, 400)
    """

    before: int
    after: int
    noise: float

    @property
    def speedup(self) -> float:
        """How many times fewer updates the larger batch needs for the same loss."""
        if math.isinf(self.noise):
            return self.after / self.before
        return (1 + self.noise / self.before) / (1 + self.noise / self.after)

    @property
    def efficiency(self) -> float:
        """The share of the ideal speed-up κ that is reached; 1 where batches cost nothing."""
        return self.speedup * self.before / self.after

    @property
    def largest(self) -> int | None:
        """The largest batch at which half of the ideal speed-up is reached: 2 B + N.

        None if no signal was found: then there is no limit to tell.
        """
        return None if math.isinf(self.noise) else math.floor(2 * self.before + self.noise)

    def text(self, before: int, after: int) -> str:
        """Say it for a number of processes that grows from `before` to `after`."""
        if self.largest is None:
            return "The gradient's signal drowns in its noise: no largest batch can be told."
        most = max(1, math.floor(before * self.largest / self.before))
        said = (
            f"The gradient noise scale is {self.noise:,.0f} samples: batches of {self.after:,} "
            f"instead of {self.before:,} need {self.speedup:.1f} times fewer updates"
        )
        if self.efficiency >= HALF:
            return (
                f"{said}, {self.efficiency:.0%} of the ideal; up to {most:,} processes reach at "
                "least half of it."
            )
        return (
            f"{said}, {self.efficiency:.0%} of the ideal: more than half of the added work is "
            f"wasted beyond {most:,} processes, batches of {self.largest:,}."
        )

    def plain(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold."""
        return {
            "before": self.before,
            "after": self.after,
            "speedup": self.speedup,
            "efficiency": self.efficiency,
            "largest": self.largest,
            "noise": to_json(self.noise),
        }
