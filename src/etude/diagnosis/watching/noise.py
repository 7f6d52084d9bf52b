"""The gradient noise scale of a watched loop, without passes of its own.

    B_noise / B = tr Σ / (B |G|²)

G is the true gradient, Σ the covariance of one sample's, and B the batch size. At 1 a gradient is
as much noise as signal; far below, a larger batch brings nothing; far above, updates are a walk.
Two estimates are made, from what a watch reads anyway.

From consecutive gradients, which share the signal and not the noise, with c the mean of their
cosine over the last pairs:

    B_noise / B = (1 - c) / c

From g_b, the gradient of the first of k backward passes of an update, and g_B, the mean of all k,
with r the mean of |g_b|² / |g_B|² over the last updates:

    B_noise / B = (r - 1) / (k - r)

Weights that move a lot between two updates make
the first too large; backward passes of different losses make the second too large. The smaller of
the two is reported, infinite if no signal was found.

Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.
"""

from __future__ import annotations

import numpy as np

from etude.diagnosis.history import Floats

RECENT, LEAST = 8, 3
"""Over how many of the last readings an estimate goes, at most and at least."""


def noise_over_batch(cosines: Floats, parts: Floats) -> Floats:
    """Return the noise scale over the batch size at each sampled update; NaN where unknown.

    Args:
        cosines: (samples,) the cosine of the gradient with that of the update before.
        parts: (samples, 2) the number k of backward passes, and |g_b|² / |g_B|².

    >>> cosines, parts = np.full(4, 0.5), np.full((4, 2), np.nan)
    >>> float(noise_over_batch(cosines, parts)[-1])
    1.0
    """
    pairs = np.maximum(_means(cosines), 0.0)
    passes = parts[:, 0]
    one = _means(np.where(passes > 1, parts[:, 1], np.nan))
    with np.errstate(all="ignore"):
        of_pairs = (1 - pairs) / pairs
        of_parts = np.maximum(one - 1, 0.0) / np.maximum(passes - one, 0.0)
    return np.fmin(of_pairs, of_parts)


def _means(values: Floats) -> Floats:
    """Return at each known value the mean of the last ones; NaN elsewhere, and while few are."""
    found = np.full(len(values), np.nan)
    known = np.flatnonzero(np.isfinite(values))
    for place in range(LEAST - 1, len(known)):
        recent = known[max(0, place + 1 - RECENT) : place + 1]
        found[known[place]] = values[recent].mean()
    return found
