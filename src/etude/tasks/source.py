"""What every kind of data can do: be walked for training from any place, and be swept once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from etude.errors import BadValueError

Batch = Any
"""What the model or the user's step receives: a tuple or a mapping of tensors, or their own."""


@dataclass
class Cursor:
    """A place in the endless stream of training batches: epoch and batch within it."""

    epoch: int = 0
    batch: int = 0


class Data(ABC):
    """A finite set of samples that can be walked for training and for evaluation."""

    samples: int | None
    """How many samples there are; None where a loader does not say."""

    draws = False
    """Whether reading a batch may draw from the global random state, and so move it."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of training batches in one epoch; None if unknown."""

    @abstractmethod
    def check(self, batch_size: int | None) -> int:
        """Return the batch size in force, or raise where the wanted one is not possible."""

    @abstractmethod
    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield training batches without end from `cursor` on, moving it along.

        The cursor is moved before a batch is handed out: when the stream stands still it
        names the next batch, so that saving it at any moment is enough to go on.
        """

    @abstractmethod
    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield every sample once, in a fixed order, as (batch, number of samples)."""

    def to(self, device: torch.device) -> Data:
        """Return the same data with its tensors on `device`, where that is possible."""
        return self

    def generators(self) -> list[torch.Generator]:
        """Return the user's own random generators that the order is drawn from."""
        return []

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Leave the user's own generators as they were when the block ends."""
        states = [(generator, generator.get_state()) for generator in self.generators()]
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)

    def targets(self) -> int | None:
        """Return how many answers there are to learn: labels or tokens, else samples."""
        return self.samples


def checked_size(batch_size: int | None, samples: int | None) -> int:
    """Return the batch size in force for data that leaves the choice.

    Raises:
        BadValueError: If it is larger than the data.
    """
    if batch_size is None:
        return 64 if samples is None else min(64, samples)
    if samples is not None and batch_size > samples:
        raise BadValueError(
            f"batch_size={batch_size} is larger than the {samples} training samples: "
            f"give batch_size <= {samples}"
        )
    return batch_size


def rows(batch: Batch) -> int:
    """Return the number of samples in a batch: the first axis of its first tensor.

    >>> rows({"x": torch.zeros(4, 2), "y": torch.zeros(4)})
    4
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return 1
    return next((rows(p) for p in parts if isinstance(p, (Tensor, Mapping, list, tuple))), 1)
