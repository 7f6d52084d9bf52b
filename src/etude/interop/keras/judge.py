"""Evaluates weights of a model on the data held out, as `fit` does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etude.errors import unknown_name
from etude.interop.keras.fit import FitCall, ModelCopies, part, samples

SLICES = 8
"""Parts of the validation arrays that are evaluated one by one; their spread tells what ties."""

Part = slice | None
"""Some samples of the validation arrays; None for all the data."""


class Judge:
    """Evaluates weights on the data held out; its parts have the mean that `fit` reports.

    Keras means a loss over batches, each by its number of samples. For a mean over samples any
    parts of the data have the same mean. For a sum over a batch, or a mean over what a mask or
    weights leave of it, only parts of whole batches do; the first evaluation tells which it is.

    One copy evaluates all weights, so that it is compiled once and no metric of a training is
    touched.

    Args:
        copies: Makes that copy.
        call: Has the data.
        objective: 'loss', or the name of a metric.
    """

    def __init__(self, copies: ModelCopies, call: FitCall, objective: str) -> None:
        self._twin, self._objective = copies.made(1.0), objective
        self._data = call.held_out()
        self._steps = call.options.get("validation_steps")
        count = samples(self._data[0])
        size = int(call.options.get("validation_batch_size") or call.batch_size)
        self._options = {"batch_size": size} if count is not None else {}
        self._parts: Sequence[Part] = [None]
        self._batches: Sequence[Part] | None = None
        if objective == "loss" and self._steps is None and count is not None:
            self._parts = _slices([*range(count), count])
            self._batches = _slices([*range(0, count, size), count])

    def __call__(self, weights: Any) -> NDArray[np.float64]:
        """Return the objective of weights for each part, weighed so that their mean is the whole's.

        Raises:
            UnknownNameError: If the model has no such metric.
        """
        self._twin.set_weights(weights)
        found = self._over(self._parts)
        if self._batches is not None and np.isfinite(found).all():
            whole = float(self._over([None])[0])
            if not math.isclose(float(found.mean()), whole, rel_tol=1e-5, abs_tol=1e-8):
                self._parts = self._batches
                found = self._over(self._parts)
            self._batches = None
        return found

    def _over(self, parts: Sequence[Part]) -> NDArray[np.float64]:
        sizes = np.array([1.0 if one is None else one.stop - one.start for one in parts])
        means = np.array([self._of(one) for one in parts])
        weighted: NDArray[np.float64] = means * sizes / sizes.mean()
        return weighted

    def _of(self, place: Part) -> float:
        given = self._data
        if place is not None:
            given = (part(given[0], place), part(given[1], place), part(given[2], place))
        told = self._twin.evaluate(
            given[0], given[1], sample_weight=given[2], steps=self._steps, verbose=0,
            return_dict=True, **self._options,
        )  # fmt: skip
        if self._objective not in told:
            raise unknown_name("objective", self._objective, told)
        return float(told[self._objective])


def _slices(edges: Sequence[int]) -> list[Part]:
    """Return at most `SLICES` parts of nearly equal length, whose ends are among some edges.

    >>> _slices([0, 6, 12, 14])
    [slice(0, 6, None), slice(6, 12, None), slice(12, 14, None)]
    """
    count = len(edges) - 1
    chosen = np.linspace(0, count, min(SLICES, count) + 1).astype(int)
    ends = [edges[place] for place in chosen.tolist()]
    return [slice(a, b) for a, b in pairwise(ends)]
