"""Random generators that the user's data keep themselves, whose state no checkpoint holds."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)


def own_generators(owners: Iterable[Any], seeded: Collection[int] = ()) -> list[str]:
    """Return what a data set or a sampler keeps as a generator, as 'Class.attribute'.

    Args:
        owners: Data sets and samplers; inner ones (`dataset`, as of a Subset) are searched too.
        seeded: The ids of generators that are seeded for each epoch.

    >>> class Noisy(torch.utils.data.Dataset):
    ...     def __init__(self):
    ...         self.rng = np.random.default_rng(0)
    >>> own_generators([torch.utils.data.Subset(Noisy(), [0])])
    ['Noisy.rng']
    """
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting = [owner for owner in owners if owner is not None]
    while waiting:
        owner = waiting.pop()
        if id(owner) in seen:
            continue
        seen.add(id(owner))
        for name, value in getattr(owner, "__dict__", {}).items():
            if isinstance(value, GENERATORS) and id(value) not in seeded:
                found[f"{type(owner).__name__}.{name}"] = None
            elif name == "dataset":
                waiting.append(value)
    return list(found)
