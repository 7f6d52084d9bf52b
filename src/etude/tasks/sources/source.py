"""The interface of every kind of data: training batches from any position, and one sweep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from etude.errors import BadTypeError, BadValueError

Batch = Any
"""A batch, as the model or the user's step receives it: tensors in a tuple or a mapping, or
whatever the user's own data yields."""


@dataclass
class Cursor:
    """A position in the endless stream of training batches: the epoch and the batch within it."""

    epoch: int = 0
    batch: int = 0


class Data(ABC):
    """A finite set of samples, read in batches for training and for evaluation."""

    samples: int | None
    """The number of samples; None if the loader does not tell it."""

    whole_epochs = False
    """Whether an update takes batches of one epoch only, so that the last may take fewer."""

    draws = False
    """Whether reading a batch may draw from the global random state, and so change it."""

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of training batches in one epoch; None if unknown."""

    @abstractmethod
    def check(self, batch_size: int | None) -> int:
        """Return the batch size to use, or raise if the requested one is not possible."""

    @abstractmethod
    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield training batches without end, starting at `cursor`, and advance the cursor.

        The cursor is advanced before a batch is yielded. Between two batches it names the next
        batch, so that a saved cursor is enough to resume.
        """

    @abstractmethod
    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield every sample once, in a fixed order, as (batch, number of samples)."""

    def to(self, device: torch.device) -> Data:
        """Return the same data with its tensors on `device`, if it can be moved."""
        return self

    def generators(self) -> list[torch.Generator]:
        """Return the user's own random generators, from which the order is drawn."""
        return []

    def own_generators(self) -> list[str]:
        """Return the generators that the user's data keep and no checkpoint holds, by name."""
        return []

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore the user's own generators when the block ends."""
        states = [(generator, generator.get_state()) for generator in self.generators()]
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)

    def part(self, index: Tensor) -> Data:
        """Return the data that holds only the samples at `index`.

        Raises:
            BadTypeError: If that cannot be; `why_whole` says why.
        """
        raise BadTypeError(f"no part of the data can be taken: {self.why_whole()}")

    def held(self, index: Tensor) -> Data:
        """Return the same as validation data: every sample, in order."""
        return self.part(index)

    def why_whole(self) -> str:
        """Return why no part of the samples can be taken by their numbers; empty if it can."""
        return "its samples have no numbers"

    def targets(self) -> int | None:
        """Return the number of targets to learn: labels or tokens, else samples."""
        return self.samples


def split_rows(samples: int, share: float) -> tuple[Tensor, Tensor]:
    """Return the rows of (the rest, a fixed random share that is held out), each ascending.

    Raises:
        BadValueError: If one of the two would be empty.
    """
    held = held_out(samples, share)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
    return order[held:].sort().values, order[:held].sort().values


def held_out(samples: int, share: float) -> int:
    """Return how many samples a share is.

    Raises:
        BadValueError: If that is none or all of them.
    """
    held = round(samples * share)
    if 0 < held < samples:
        return held
    fix = "give at least 2 samples"
    if samples > 1:
        fix = f"give a share from {1 / samples:.3g} to {1 - 1 / samples:.3g}"
    raise BadValueError(
        f"valid={share} of {samples} samples leaves one part empty: {fix}, or pass valid= as data"
    )


def checked_size(batch_size: int | None, samples: int | None) -> int:
    """Return the batch size for data that works with any: for None, 64 or all samples if fewer.

    Raises:
        BadValueError: If the batch size exceeds the number of samples.
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

    Of packed sequences it is how many there are.

    >>> rows({"x": torch.zeros(4, 2), "y": torch.zeros(4)})
    4
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, PackedSequence):
        return int(batch.batch_sizes[0])
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return 1
    return next((rows(p) for p in parts if isinstance(p, (Tensor, Mapping, list, tuple))), 1)
