"""The data of a Trainer, in the order in which it trains on them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, RandomSampler

from etude.tasks.sources.loaders import LoaderData
from etude.tasks.sources.source import Batch

Count = Callable[[list[Any]], Any]
"""Returns the number of items in the batches of an update; None if the Trainer counts none."""


class CountedBatch(NamedTuple):
    """A batch, with what the Trainer knows of its update.

    Attributes:
        inputs: What the model gets, by name.
        items: The number of items (labels, or tokens) in all batches of the update; None if the
            Trainer does not count them.
        batches: The number of batches of the update.
    """

    inputs: Any
    items: Any
    batches: int


class TrainerData(LoaderData):
    """Batches of a Trainer's DataLoader.

    The Trainer shuffles epoch e by a permutation drawn from the seed `seed + e`, with `data_seed`
    in place of `seed` if that is set; so does this. An update takes batches of one epoch.

    Args:
        loader: The DataLoader, as the Trainer makes it.
        data_seed: The seed of the order in every run; None takes the recipe's.
        seeded: Whether the Trainer draws the order from these seeds.
        count: Counts the items of an update.
        accumulate: The number of batches of an update.
    """

    whole_epochs = True

    def __init__(
        self,
        loader: DataLoader[Any],
        data_seed: int | None,
        *,
        seeded: bool,
        count: Count,
        accumulate: int = 1,
    ) -> None:
        self.count, self.accumulate = count, accumulate
        self.shuffled: RandomSampler | None = None
        self.data_seed = data_seed
        if seeded and type(loader.sampler) is RandomSampler and loader.sampler.generator is None:
            loader, self.shuffled = _with_own_sampler(loader)
        super().__init__(loader, "DataLoader of the Trainer")

    def begin_epoch(self, seed: int, epoch: int) -> int:
        """Set the order of one epoch."""
        order = super().begin_epoch(seed, epoch)
        if self.shuffled is not None:
            first = seed if self.data_seed is None else self.data_seed
            self.shuffled.generator.manual_seed(first + epoch)
        return order

    def _epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        # The Trainer counts over an update: a stream that begins within one reads all of it.
        inside = skip % self.accumulate
        batches = super()._epoch(seed, epoch, skip - inside)
        while update := list(islice(batches, self.accumulate)):
            items = self.count(update)
            for batch in update[inside:]:
                inputs = dict(batch) if isinstance(batch, Mapping) else batch
                yield CountedBatch(inputs, items, len(update))
            inside = 0


def _with_own_sampler(loader: DataLoader[Any]) -> tuple[DataLoader[Any], RandomSampler]:
    """Return a copy of a loader whose sampler draws from a generator of its own."""
    loader, sampler = copy.copy(loader), copy.copy(loader.sampler)
    assert isinstance(sampler, RandomSampler)
    sampler.generator = torch.Generator()
    batches = copy.copy(loader.batch_sampler)
    vars(batches)["sampler"] = sampler
    vars(loader).update(sampler=sampler, batch_sampler=batches)
    return loader, sampler
