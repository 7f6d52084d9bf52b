"""What a run does at a spike of its loss or gradient: skip, rewind, or clip by z-score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from etude.errors import BadTypeError, BadValueError, as_whole, shown
from etude.layerwise.policies.policy import Named, number

IN_A_ROW = 4
"""So many losses in a row that are not finite are skipped; one more ends the run."""


@dataclass(frozen=True, repr=False)
class SpikePolicy(Named):
    """What a run does at a spike; `repr` is its text form, such as 'skip(sigmas=5.0)'."""

    by_position: ClassVar[int] = 0


@dataclass(frozen=True, repr=False)
class Skip(SpikePolicy):
    """Do not make a step whose loss or gradient norm stands out of those before it.

        skip if x_t > mean + sigmas · s   for x the loss or the gradient's norm, where mean and s
        (divisor n - 1) are those of the last `window` values before t

    The gradient's norm is that before clipping by norm or percentile. Skipped values take part in
    later statistics, so that a lasting rise is skipped a few times only, and then followed. A value
    that is not finite takes no part, and is always beyond; more than four such losses in a row end
    the run.

    The first `after` updates are made in any case: until then the loss and the gradient fall or
    rise as the rate warms up, and the window is not yet filled with values of the same phase.

    Args:
        sigmas: At least 1.
        window: The number of values, at least 8.
        after: The first update, counted from 0, that can be skipped; at least `window`.

    Source: OLMo 2, arXiv:2501.00656, and OLMo-core's `SkipStepOptimizer`, which starts at half of
    the window instead.

    >>> policy = Skip(window=8, after=8)
    >>> losses = [1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 1.0]
    >>> policy.spikes(8, [*losses, 1.2]), policy.spikes(8, [*losses, 2.0])
    (False, True)
    """

    name: ClassVar[str] = "skip"
    sigmas: float = 6.0
    window: int = 128
    after: int = 256

    def __post_init__(self) -> None:
        self.put(**_rule(self.name, self.sigmas, self.window, self.after))

    def spikes(self, update: int, *series: Sequence[float]) -> bool:
        """Return whether an update is to be skipped.

        Args:
            update: The update, counted from 0.
            series: The losses up to it, and the norms of the gradients.
        """
        return update >= self.after and any(beyond(v, self.window, self.sigmas) for v in series)

    def tolerates(self, update: int, losses: Sequence[float]) -> bool:
        """Return whether a loss that is not finite is skipped instead of ending the run.

        Args:
            update: The update, counted from 0.
            losses: The losses of the updates before it.
        """
        return update >= self.after and any(map(math.isfinite, losses[-IN_A_ROW:]))


@dataclass(frozen=True, repr=False)
class Rewind(SpikePolicy):
    """Go back to earlier weights at a spike of the loss, and leave out the batches in between.

    Weights, buffers and the optimizer's state are kept at every `back`-th update. A loss above
    mean + sigmas · s, as in `skip`, or one that is not finite, restores the newest kept state that
    is at least `back` updates old. No batch since then comes again; the data go on `skip` updates
    after the kept state, or after the spike if that is later. Then the same update is made there.

    The clock does not go back: an update's number is used once, so that the rate goes on with the
    schedule and a run costs what its length says, plus one gradient for each rewind. (PaLM's
    schedule went back with its weights, by about 100 of 250,000 updates.) After a rewind none
    follows for `back` updates.

    A checkpoint holds the kept states too, at most two: it is up to three times as large.

    Args:
        back: The least age of the state to which a run goes back, in updates; at least 1.
        skip: The number of updates, counted from the kept state, whose batches are left out.
        sigmas: At least 1.
        window: The number of values, at least 8.
        after: The first update that can rewind; at least `window`.

    Source: PaLM (Chowdhery et al. 2022), arXiv:2204.02311, section 5.1: "re-started training from a
    checkpoint roughly 100 steps before the spike started, and skipped roughly 200-500 data
    batches". There a person saw the spike; the rule that finds it here is that of `skip`.

    >>> Rewind(back=50)
    rewind(back=50)
    """

    name: ClassVar[str] = "rewind"
    back: int = 100
    skip: int = 200
    sigmas: float = 6.0
    window: int = 128
    after: int = 256

    def __post_init__(self) -> None:
        self.put(
            back=_count(self.name, "back", self.back, 1),
            skip=_count(self.name, "skip", self.skip, 0),
            **_rule(self.name, self.sigmas, self.window, self.after),
        )

    def spikes(self, update: int, losses: Sequence[float]) -> bool:
        """Return whether a run goes back at an update.

        Args:
            update: The update, counted from 0.
            losses: The losses up to it.
        """
        broken = not math.isfinite(losses[-1])
        return broken or (update >= self.after and beyond(losses, self.window, self.sigmas))


@dataclass(frozen=True, repr=False)
class ZClip(SpikePolicy):
    """Clip the gradient's norm where it stands out of a moving mean of the norms before it.

        z = (‖g‖ - μ) / (σ + 10⁻⁶)
        if z > z_max:   g ← g · c / ‖g‖   with c = μ + z_max · σ · (z_max / z),   else c = ‖g‖
        μ ← alpha · μ + (1 - alpha) · c,   σ² ← alpha · σ² + (1 - alpha) · (c - μ)²

    The further out a norm is, the closer to the mean it is clipped. The first `warmup` norms are
    not clipped; their mean and variance are where μ and σ² start.

    Args:
        z: z_max, above 0.
        alpha: In [0, 1).
        warmup: At least 2.

    Source: Kumar et al. 2025 (ZClip), arXiv:2504.02507, section 3.

    >>> ZClip(z=3)
    zclip(z=3.0)
    """

    name: ClassVar[str] = "zclip"
    z: float = 2.5
    alpha: float = 0.97
    warmup: int = 25

    def __post_init__(self) -> None:
        alpha = number(self.name, "alpha", self.alpha)
        if alpha >= 1:
            raise BadValueError(
                f"zclip: alpha={self.alpha!r} is out of bounds: give a number below 1"
            )
        self.put(
            z=number(self.name, "z", self.z, open_low=True),
            alpha=alpha,
            warmup=_count(self.name, "warmup", self.warmup, 2),
        )


SPIKE_POLICIES: Mapping[str, type[SpikePolicy]] = MappingProxyType(
    {policy.name: policy for policy in (Skip, Rewind, ZClip)}
)
"""The policies by name."""


def spike_policy(value: object) -> SpikePolicy | None:
    """Return a policy, or the one that a text names.

    Raises:
        BadTypeError: If it is neither.
        BadValueError: If the text is no policy, or a number in it is out of bounds.

    >>> spike_policy("skip"), spike_policy("zclip(z=3)"), spike_policy(None)
    (skip(), zclip(z=3.0), None)
    """
    from etude.layerwise.policies.text import expression, read_call

    if value is None or isinstance(value, SpikePolicy):
        return value
    if not isinstance(value, str):
        raise BadTypeError(
            f"spikes={shown(value)}: give 'skip', 'rewind', 'zclip', or one with numbers such as "
            "'skip(sigmas=5)'"
        )
    return read_call(expression(value), value, SPIKE_POLICIES, bare=True)


def beyond(values: Sequence[float], window: int, sigmas: float) -> bool:
    """Return whether the last value is above the mean of those before by so many deviations.

    Args:
        values: The values; those before the last that are not finite do not count.
        window: How many before the last count.
        sigmas: How many standard deviations, with divisor n - 1.
    """
    if not math.isfinite(values[-1]):
        return True
    before = [value for value in values[-window - 1 : -1] if math.isfinite(value)]
    if len(before) < 2:
        return False
    mean = math.fsum(before) / len(before)
    variance = math.fsum((value - mean) ** 2 for value in before) / (len(before) - 1)
    return values[-1] - mean > sigmas * math.sqrt(variance)


def _rule(policy: str, sigmas: object, window: object, after: object) -> dict[str, float]:
    """Return the checked numbers of the rule that finds a spike."""
    size = _count(policy, "window", window, 8)
    first = _count(policy, "after", after, size)
    return {"sigmas": number(policy, "sigmas", sigmas, low=1.0), "window": size, "after": first}


def _count(policy: str, name: str, value: object, least: int) -> int:
    found = as_whole(value)
    if found is None:
        raise BadTypeError(f"{policy}: {name}={shown(value)} is not a whole number")
    if found < least:
        raise BadValueError(f"{policy}: {name}={found} is out of bounds: give at least {least:,}")
    return found
