"""Compares how the best rate moves with the batch size with the rules that are known for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etude.errors import BadValueError

GRID = 400
"""How many noise scales are tried: from a hundredth of the least batch to 100 times the largest."""


@dataclass(frozen=True)
class BatchRule:
    """One rule, fitted to the best rates at several batch sizes.

    Attributes:
        name: 'constant', 'square root', 'linear' or 'noise scale'.
        lrs: The rates that it gives.
        error: The root mean square of log10(measured / rule), in decades.
        noise_scale: The batch size at which the rate of the rule is half the largest one; None for
            other rules.
    """

    name: str
    lrs: tuple[float, ...]
    error: float
    noise_scale: float | None = None


def batch_rules(batch_sizes: ArrayLike, lrs: ArrayLike) -> list[BatchRule]:
    """Fit the rules for the batch size B to measured best rates η*, the closest rule first.

        constant       η = c
        square root    η = c √B                   (for Adam: Malladi et al., arXiv 2205.10287)
        linear         η = c B                    (for SGD: Goyal et al., arXiv 1706.02677)
        noise scale    η = c / (1 + N / B)        (McCandlish et al., arXiv 1812.06162)

    The fits are least squares of log η. The last rule has two parameters, c and the noise scale N,
    and the others one: it is linear for B well below N, and constant well above.

    Args:
        batch_sizes: (batches,), all different.
        lrs: (batches,) the best rate at each.

    Raises:
        BadValueError: If there are fewer than three batch sizes, or a number is not above 0.

    >>> found = batch_rules([1, 4, 16, 64], [0.01, 0.02, 0.04, 0.08])
    >>> found[0].name, round(found[0].error, 6)
    ('square root', 0.0)
    """
    sizes, rates = np.asarray(batch_sizes, float), np.asarray(lrs, float)
    if sizes.ndim != 1 or sizes.shape != rates.shape or len(np.unique(sizes)) < max(3, len(sizes)):
        raise BadValueError(
            f"batch_sizes={sizes.tolist()} with lrs={rates.tolist()}: give at least three "
            "different batch sizes, and the best rate of each"
        )
    if not (np.all(sizes > 0) and np.all(rates > 0) and np.all(np.isfinite([sizes, rates]))):
        raise BadValueError("batch_sizes and lrs: give finite numbers above 0")
    scales = np.geomspace(sizes.min() / 100, sizes.max() * 100, GRID)
    noise = min((_fit(rates, 1 / (1 + n / sizes), "noise scale", float(n)) for n in scales), key=_e)
    powers = {"constant": 0.0, "square root": 0.5, "linear": 1.0}
    plain = [_fit(rates, sizes**power, name) for name, power in powers.items()]
    return sorted([*plain, noise], key=_e)


def _fit(
    rates: NDArray[np.float64],
    shape: NDArray[np.float64],
    name: str,
    noise_scale: float | None = None,
) -> BatchRule:
    left = np.log10(rates / shape)
    found: Sequence[float] = (shape * 10 ** left.mean()).tolist()
    return BatchRule(name, tuple(found), float(left.std()), noise_scale)


def _e(rule: BatchRule) -> float:
    return rule.error
