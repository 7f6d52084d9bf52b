"""Joins what was read of one run in several processes, or before and after it was resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from etude.diagnosis.history import Floats, History, LayerInfo
from etude.diagnosis.watching.recorder import MOST_ROWS

K = TypeVar("K")

OF_EACH_UPDATE = ("loss", "lr")
"""The series with a value for each update, not for each sampled one."""


def joined(earlier: History, later: History) -> History:
    """Return one history of the sampled updates of both.

    Both count the updates of the run from 0. Layers and parameters are matched by name; what only
    one of the histories has is NaN in the other. Everything else, such as the loss of each update,
    is that of the later one. With more than `MOST_ROWS` samples, every second one is dropped.

    >>> one = History(1, np.ones(1), np.ones(1), np.array([0]))
    >>> two = History(3, np.ones(3), np.ones(3), np.array([2]))
    >>> joined(one, two).steps.tolist()
    [0, 2]
    """
    if not earlier.samples:
        return later
    layers = [layer.name for layer in later.layers]
    parameters = [parameter.name for parameter in later.parameters]
    at_layers = _places([layer.name for layer in earlier.layers], layers)
    at_parameters = _places([one.name for one in earlier.parameters], parameters)
    keep = ~np.isin(earlier.steps, later.steps)
    step = 1 if keep.sum() + later.samples <= MOST_ROWS else 2

    def whole(before: Floats, after: Floats, places: Sequence[int | None] | None) -> Floats:
        kept = before[keep] if places is None else _aligned(before[keep], places)
        return np.concatenate([kept, after])[::step]

    found: dict[str, Any] = {"steps": whole(earlier.steps, later.steps, None)}  # type: ignore[arg-type]
    for name, places in (("readings", at_layers), ("run_readings", None)):
        found[name] = {
            key: whole(before, after, places)
            for key, (before, after) in _pairs(
                getattr(earlier, name),
                getattr(later, name),
                earlier,
                later,
                wide=places is not None,
            ).items()
        }
    for one in fields(History):
        before, after = getattr(earlier, one.name), getattr(later, one.name)
        if one.name in OF_EACH_UPDATE or not isinstance(after, np.ndarray):
            continue
        if one.name.startswith("parameter_"):
            before = before.reshape(earlier.samples, len(earlier.parameters))
            after = after.reshape(later.samples, len(parameters))
            found[one.name] = whole(before, after, at_parameters)
        elif len(after) == later.samples and one.name != "steps":
            if before.shape != (earlier.samples, *after.shape[1:]):
                before = np.full((earlier.samples, *after.shape[1:]), np.nan)
            found[one.name] = whole(before, after, None)
    known = {one.update: one for one in (*earlier.largest_samples, *later.largest_samples)}
    largest = tuple(known[update] for update in sorted(known))
    return replace(later, layers=_described(earlier, later), largest_samples=largest, **found)


def _pairs(
    before: Mapping[K, Floats],
    after: Mapping[K, Floats],
    earlier: History,
    later: History,
    *,
    wide: bool,
) -> dict[K, tuple[Floats, Floats]]:
    """Return the values of both by quantity, NaN where one does not have it."""

    def missing(history: History) -> Floats:
        return np.full((history.samples, len(history.layers))[: 2 if wide else 1], np.nan)

    return {
        key: (before.get(key, missing(earlier)), after.get(key, missing(later)))
        for key in dict.fromkeys([*before, *after])
    }


def _places(names: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    known = {name: place for place, name in enumerate(names)}
    return [known.get(name) for name in wanted]


def _aligned(values: Floats, places: Sequence[int | None]) -> Floats:
    found = np.full((len(values), len(places)), np.nan)
    for column, place in enumerate(places):
        if place is not None:
            found[:, column] = values[:, place]
    return found


def _described(earlier: History, later: History) -> tuple[LayerInfo, ...]:
    """Return the later layers, with what only an earlier forward pass has shown of them."""
    known = {layer.name: layer for layer in earlier.layers}
    return tuple(
        layer
        if layer.units or layer.activation or layer.name not in known
        else replace(known[layer.name], depth=layer.depth, parameters=layer.parameters)
        for layer in later.layers
    )
