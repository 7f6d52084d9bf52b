"""The readings of one sampled update, as tensors that are read late."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from etude.diagnosis.history import Floats, RunQuantity, Steps
from etude.training.observer import Value
from etude.training.observers import read_numbers


@dataclass(frozen=True)
class Norms:
    """Norms of several lists of tensors, in one tensor.

    Attributes:
        values: (lists, columns) norms of the entries read.
        names: What the norms in each row are of.
        known: By name, the columns that were read.
        numbers: The number of the parameter of each column.
        scales: What each column is multiplied with.
        unscale: What the norms of gradients are multiplied with; None for nothing.
    """

    values: Tensor
    names: Sequence[str]
    known: Mapping[str, Sequence[int]]
    numbers: Steps
    scales: Floats
    unscale: Tensor | None = None


@dataclass
class Sample:
    """What was read in one update.

    Attributes:
        update: The update.
        norms: Norms of gradients, weights, updates; of the sums of two consecutive gradients or
            updates; and of gradients after the backward pass.
        layers: (layer, name) -> a number.
        run: Numbers of the whole run.
        skipped: Whether a fused optimizer left out the step.
        passes: How many backward passes the update had; 0 if that is not known.
    """

    update: int
    norms: list[Norms] = field(default_factory=list)
    layers: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    run: dict[RunQuantity, Value] = field(default_factory=dict)
    skipped: Tensor | None = None
    passes: int = 0


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
        starts: Per parameter, its norm before the first update; NaN in all other samples.
        layers: (layer, name) -> a number.
        run: Numbers of the whole run.
        parts: The number of backward passes, and |mean gradient of the first|² over that of all;
            NaN if not known.
    """

    update: int
    gradients: Floats
    weights: Floats
    updates: Floats
    gradient_sums: Floats
    update_sums: Floats
    starts: Floats
    layers: dict[tuple[int, str], float]
    run: dict[RunQuantity, float]
    parts: tuple[float, float] = (math.nan, math.nan)


NAMES = ("gradients", "weights", "updates", "gradient_sums", "update_sums", "starts")
FIRST, ALL = "first_backward", "backward"
_PLACES = {name: place for place, name in enumerate((*NAMES, FIRST, ALL))}


def read(samples: Sequence[Sample], count: int) -> list[Row]:
    """Read samples from the device; leave out those whose step was skipped.

    Args:
        samples: The samples.
        count: How many parameters the table has.
    """
    rows = []
    for sample in samples:
        if sample.skipped is not None and bool(sample.skipped):
            continue
        numbers = read_numbers([*sample.layers.values(), *sample.run.values()])
        layers = dict(zip(sample.layers, numbers, strict=False))
        run = dict(zip(sample.run, numbers[len(layers) :], strict=True))
        found = np.full((len(_PLACES), count), np.nan)
        for part in sample.norms:
            values = np.array(part.values.tolist()) * part.scales
            values = np.where(np.isnan(values), np.inf, values)
            for name, own in zip(part.names, values, strict=True):
                if part.unscale is not None and name.startswith("gradient"):
                    own = own * float(part.unscale)
                columns = list(part.known[name])
                found[_PLACES[name], part.numbers[columns]] = own[columns]
        parts = math.nan, math.nan
        if sample.passes:
            first, backward = found[_PLACES[FIRST]], found[_PLACES[ALL]]
            if sample.passes == 1:
                backward = first
            clipped = _clipped(backward, found[_PLACES["gradients"]])
            if clipped is not None:
                run[RunQuantity.CLIPPED] = clipped
            parts = _parts(sample.passes, first, backward)
        norms = {name: found[_PLACES[name]] for name in NAMES}
        rows.append(Row(update=sample.update, layers=layers, run=run, parts=parts, **norms))
    return rows


def _parts(passes: int, first: Floats, backward: Floats) -> tuple[float, float]:
    """Return the number of backward passes, and |mean gradient of the first|² over that of all.

    Whether the losses were divided by the number of passes makes no difference.
    """
    known = np.isfinite(first) & np.isfinite(backward)
    size = np.sum(backward[known] ** 2)
    if passes < 2 or not size > 0:
        return math.nan, math.nan
    return float(passes), float(passes**2 * np.sum(first[known] ** 2) / size)


def _clipped(before: Floats, after: Floats) -> float | None:
    """Return 1 if the gradients became smaller between backward pass and step, else 0.

    They count as clipped if none grew and their total norm fell by more than a thousandth. None if
    the gradients after the backward pass are not known.
    """
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return None
    before, after = before[known], after[known]
    fell = np.sum(after**2) < 0.998 * np.sum(before**2)
    return float(fell and not np.any(after > before * 1.001))
