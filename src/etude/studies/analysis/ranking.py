"""The rank of rivals at the end of their runs and at half way, and whether ranks flip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etude.studies.analysis.intervals import SHARE, Interval, drawn_means, mean_interval


@dataclass(frozen=True)
class Ranked:
    """One rival.

    Attributes:
        name: What it is called.
        end: Its final loss, with the interval over seeds.
        half: Its loss at half way; None if it is not known.
        rank: Its place at the end, from 1; equal losses share a place.
        half_rank: Its place at half way; None if it is not known for all rivals.
    """

    name: str
    end: Interval
    half: Interval | None
    rank: int
    half_rank: int | None


@dataclass(frozen=True)
class Flip:
    """Two rivals that are in the opposite order at half way.

    Attributes:
        ahead_half: The rival with the lower mean loss at half way.
        ahead_end: The one with the lower mean loss at the end.
        sure: Whether both orders hold in the given share of draws of the seeds; False with one
            seed, which cannot tell.
    """

    ahead_half: str
    ahead_end: str
    sure: bool


@dataclass(frozen=True)
class RivalRanking:
    """Rivals by their final loss, the best first.

    Attributes:
        rivals: The rivals.
        flips: The pairs whose order is another at half way.
        tied: The names of those whose final loss cannot be told apart from that of the best.
    """

    rivals: tuple[Ranked, ...]
    flips: tuple[Flip, ...]
    tied: tuple[str, ...]


def ranking(
    ends: Mapping[str, ArrayLike],
    halves: Mapping[str, ArrayLike] | None = None,
    *,
    share: float = SHARE,
) -> RivalRanking:
    """Rank rivals by their mean loss over seeds, at the end and at half way of the same runs.

    Runs that share a seed share their batches, so two rivals are compared in the same draws of the
    seeds where they have equally many. A is ahead of B for sure if its mean is lower in the given
    share of draws and there is more than one seed.

    Args:
        ends: For each rival (seeds,) the final losses; infinite where a run diverged.
        halves: Likewise half way; None, or a rival that is missing or has a NaN, is unknown.
        share: The share of draws, in (0, 1).

    Source: that ranks in the middle of training differ from those at the end, Wen et al. 2025,
    arXiv:2509.02046.

    >>> found = ranking({"a": [1.0, 1.1], "b": [2.0, 2.1]}, {"a": [4.0, 4.1], "b": [3.0, 3.1]})
    >>> [one.name for one in found.rivals], found.flips[0].sure
    (['a', 'b'], True)
    """
    known = {name: np.asarray(v, float) for name, v in (halves or {}).items()}
    whole = bool(ends) and all(
        name in known and known[name].size and not np.isnan(known[name]).any() for name in ends
    )
    end = {name: mean_interval(v, share=share) for name, v in ends.items()}
    half = {name: mean_interval(known[name], share=share) for name in ends} if whole else {}
    places, half_places = _places(end), _places(half)
    order = sorted(ends, key=lambda name: end[name].value)
    rivals = tuple(
        Ranked(name, end[name], half.get(name), places[name], half_places.get(name))
        for name in order
    )
    flips = []
    for a, b in combinations(order, 2):
        if whole and end[a].value < end[b].value and half[b].value < half[a].value:
            sure = surely_below(ends[a], ends[b], share) and surely_below(known[b], known[a], share)
            flips.append(Flip(b, a, sure))
    tied = tuple(name for name in order[1:] if not surely_below(ends[order[0]], ends[name], share))
    return RivalRanking(rivals, tuple(flips), tied)


def surely_below(first: ArrayLike, second: ArrayLike, share: float = SHARE) -> bool:
    """Return whether the mean of the first is below that of the second in a share of draws.

    With one seed it cannot be told: False.

    Args:
        first: (seeds,).
        second: (seeds,), of the same seeds, or of others if there is another number of them.
        share: The share of draws, in (0, 1).

    >>> surely_below([1.0, 1.1], [2.0, 2.1]), surely_below([1.0], [2.0])
    (True, False)
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    if min(a.size, b.size) < 2:
        return False
    return bool(_wins(drawn_means(a), drawn_means(b), paired=a.size == b.size) >= share)


def _wins(a: NDArray[np.float64], b: NDArray[np.float64], *, paired: bool) -> float:
    return float(np.mean(a < b) if paired else np.mean(a[:, None] < b[None, :]))


def _places(found: Mapping[str, Interval]) -> dict[str, int]:
    return {
        name: 1 + sum(other.value < one.value for other in found.values())
        for name, one in found.items()
    }
