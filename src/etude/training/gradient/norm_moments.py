"""The moving mean and variance of a run's gradient norms, by which ZClip bounds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from etude.recipe_spikes import ZClip

EPS = 1e-6
"""What ZClip adds to the standard deviation."""


class NormMoments:
    """The moving mean and variance of a run's gradient norms, and the bound that follows from them.

    Args:
        policy: The numbers of the formula, which stands there.
    """

    def __init__(self, policy: ZClip) -> None:
        self.policy = policy
        self.mean = self.variance = math.nan
        self._first: list[float] = []
        self._seen = 0

    def bound(self, norm: float, history: Sequence[float]) -> float | None:
        """Return the norm to which a gradient is clipped, None for no clipping; then count it.

        Args:
            norm: The norm before clipping. One that is not finite is neither clipped nor counted.
            history: The norms of all earlier updates. They are only read after a run was loaded.
        """
        if self._seen != len(history):
            self._first, self.mean = [], math.nan
            for earlier in history:
                self._count(earlier)
        self._seen = len(history) + 1
        return self._count(norm)

    def _count(self, norm: float) -> float | None:
        policy = self.policy
        if not math.isfinite(norm):
            return None
        if math.isnan(self.mean):
            self._first.append(norm)
            if len(self._first) == policy.warmup:
                self.mean = math.fsum(self._first) / policy.warmup
                squares = math.fsum((value - self.mean) ** 2 for value in self._first)
                self.variance = squares / policy.warmup
            return None
        deviation = math.sqrt(self.variance)
        z = (norm - self.mean) / (deviation + EPS)
        bound = self.mean + policy.z * deviation * (policy.z / z) if z > policy.z else None
        effective = norm if bound is None else bound
        self.mean = policy.alpha * self.mean + (1 - policy.alpha) * effective
        self.variance = (
            policy.alpha * self.variance + (1 - policy.alpha) * (effective - self.mean) ** 2
        )
        return bound
