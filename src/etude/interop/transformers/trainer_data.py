"""The data of a Trainer, in the order in which it trains on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from etude.tasks.loaders import LoaderData
from etude.tasks.source import Batch


class TrainerData(LoaderData):
    """Batches of a Trainer's DataLoader.

    The Trainer shuffles epoch e by a permutation drawn from the seed `seed + e`, with `data_seed`
    in place of `seed` if that is set; so does this. An update takes batches of one epoch.

    Args:
        loader: The DataLoader, as the Trainer makes it.
        data_seed: The seed of the order in every run; None takes the recipe's.
        seeded: Whether the Trainer draws the order from these seeds.
    """

    whole_epochs = True

    def __init__(self, loader: DataLoader[Any], data_seed: int | None, *, seeded: bool) -> None:
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
        for batch in super()._epoch(seed, epoch, skip):
            yield dict(batch) if isinstance(batch, Mapping) else batch


def _with_own_sampler(loader: DataLoader[Any]) -> tuple[DataLoader[Any], RandomSampler]:
    """Return a copy of a loader whose sampler draws from a generator of its own."""
    loader, sampler = copy.copy(loader), copy.copy(loader.sampler)
    assert isinstance(sampler, RandomSampler)
    sampler.generator = torch.Generator()
    batches = copy.copy(loader.batch_sampler)
    vars(batches)["sampler"] = sampler
    vars(loader).update(sampler=sampler, batch_sampler=batches)
    return loader, sampler
