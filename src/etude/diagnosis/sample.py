"""The readings of one sampled update, as tensors that are read late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from torch import Tensor

from etude.diagnosis.history import Floats, RunQuantity
from etude.training.observer import Value, read_numbers

Scaled: TypeAlias = tuple[Sequence[int], Sequence[float], Tensor]
"""Numbers of parameters, what their norms are multiplied with, and the norms read."""


@dataclass
class Sample:
    """What was read in one update.

    Attributes:
        update: The update.
        gradients: Norms of gradients.
        weights: Norms of weights after the update.
        updates: Norms of the updates.
        gradient_sums: Norms of the gradient plus that of the update before.
        update_sums: Norms of the update plus the one before.
        layers: (layer, name) -> a number.
        run: Numbers of the whole run.
        clipped: Whether the gradients of each optimizer were clipped.
        skipped: Whether a fused optimizer left out the step.
    """

    update: int
    gradients: list[Scaled] = field(default_factory=list)
    weights: list[Scaled] = field(default_factory=list)
    updates: list[Scaled] = field(default_factory=list)
    gradient_sums: list[tuple[Sequence[int], Tensor]] = field(default_factory=list)
    update_sums: list[tuple[Sequence[int], Tensor]] = field(default_factory=list)
    layers: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    run: dict[RunQuantity, Value] = field(default_factory=dict)
    clipped: list[Tensor] = field(default_factory=list)
    skipped: Tensor | None = None


@dataclass(frozen=True)
class Row:
    """A sample as numbers: NaN where nothing was read, infinite where a norm is not finite.

    Attributes:
        update: The update.
        gradients: Per parameter, the norm of its gradient.
        weights: Per parameter, its norm.
        updates: Per parameter, the norm of its update.
        gradient_sums: Per parameter, the norm of its gradient plus that of the update before.
        update_sums: Per parameter, the norm of its update plus the one before.
        layers: (layer, name) -> a number.
        run: Numbers of the whole run.
    """

    update: int
    gradients: Floats
    weights: Floats
    updates: Floats
    gradient_sums: Floats
    update_sums: Floats
    layers: dict[tuple[int, str], float]
    run: dict[RunQuantity, float]


def read(samples: Sequence[Sample], count: int) -> list[Row]:
    """Read samples from the device, all at once; leave out those whose step was skipped.

    Args:
        samples: The samples.
        count: How many parameters the table has.
    """
    rows = []
    for sample in samples:
        if sample.skipped is not None and bool(sample.skipped):
            continue
        scalars = [*sample.layers.values(), *sample.run.values(), *sample.clipped]
        numbers = read_numbers(scalars)
        layers = dict(zip(sample.layers, numbers, strict=False))
        run = dict(zip(sample.run, numbers[len(layers) :], strict=False))
        clipped = numbers[len(layers) + len(run) :]
        if clipped:
            run[RunQuantity.CLIPPED] = max(clipped)
        gradients, weights, updates, both, moved = (np.full(count, np.nan) for _ in range(5))
        scales = np.ones(count)
        for target, parts in ((gradients, sample.gradients), (weights, sample.weights),
                              (updates, sample.updates)):  # fmt: skip
            for index, scale, values in parts:
                found = np.array(values.tolist()) * np.array(scale)
                target[list(index)] = np.where(np.isnan(found), np.inf, found)
                scales[list(index)] = scale
        for target, sums in ((both, sample.gradient_sums), (moved, sample.update_sums)):
            for index, values in sums:
                target[list(index)] = np.array(values.tolist()) * scales[list(index)]
        rows.append(Row(sample.update, gradients, weights, updates, both, moved, layers, run))
    return rows
