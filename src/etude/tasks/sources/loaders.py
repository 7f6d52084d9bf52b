"""Data with its own order: the user's DataLoader, or an IterableDataset without one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from etude.errors import BadValueError, TaskError, where
from etude.randomness import OwnRandomness, derive_seed
from etude.tasks.sources import loader_parts
from etude.tasks.sources.own_epochs import OwnEpochs
from etude.tasks.sources.own_generators import own_generators
from etude.tasks.sources.source import Batch, Cursor, Data, checked_size, rows, split_rows
from etude.torch_internals import end_workers

_END = object()


def _end_workers(batches: object) -> None:
    """End the worker processes of an iterator, also those that Ctrl-C has killed already.

    torch raises for a dead worker in whatever code runs at the time. While an iterator is being
    closed the error has no meaning, and from `__del__` it would be printed as a traceback.
    """
    with suppress(RuntimeError):
        end_workers(batches)


class LoaderData(Data):
    """The user's own DataLoader: its batching and its order, seeded per epoch."""

    def __init__(self, loader: DataLoader[Any], name: str = "DataLoader") -> None:
        self.name = name
        if loader.persistent_workers:
            # Persistent workers serve one iterator at a time, and carry their random state from
            # epoch to epoch: paired trials would read each other's batches.
            loader = copy.copy(loader)
            vars(loader)["persistent_workers"] = False
        self.loader = loader
        self.own_epochs = OwnEpochs(loader.dataset)
        iterable = isinstance(loader.dataset, IterableDataset)
        self.samples = None if iterable else len(loader.dataset)  # type: ignore[arg-type]

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the loader's length, or None if it has none."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def check(self, batch_size: int | None) -> int:
        """Return the loader's own batch size; raise if a recipe asks for another one."""
        own = self.loader.batch_size
        if own is None:
            own = getattr(self.loader.batch_sampler, "batch_size", None)
        if batch_size is not None and own is not None and batch_size != own:
            raise BadValueError(
                f"the recipe asks for batch_size={batch_size}, but the DataLoader makes batches "
                f"of {own}: leave batch_size out, or build the loader with {batch_size}"
            )
        return own or batch_size or 1

    def why_whole(self) -> str:
        """Return why the order of the loader needs all samples; empty if a part can be taken."""
        return loader_parts.why_whole(self.loader)

    def part(self, index: Tensor) -> LoaderData:
        """Return the data of a loader over the samples at `index`."""
        if self.why_whole():
            super().part(index)
        return LoaderData(loader_parts.part_of(self.loader, index), self.name)

    def held(self, index: Tensor) -> LoaderData:
        """Return the same, in order and without leaving any sample out."""
        if self.why_whole():
            super().part(index)
        return LoaderData(loader_parts.part_of(self.loader, index, held_out=True), self.name)

    def split(self, share: float) -> tuple[LoaderData, LoaderData]:
        """Return (rest, held out) where a fixed random `share` of the samples is held out."""
        assert self.samples is not None
        rest, held = split_rows(self.samples, share)
        return self.part(rest), self.held(held)

    def generators(self) -> list[torch.Generator]:
        """Return the generators of the loader and its samplers."""
        found = [getattr(owner, "generator", None) for owner in (self.loader, *self._samplers())]
        unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
        return list(unique.values())

    def own_generators(self) -> list[str]:
        """Return those of the dataset and the samplers that `begin_epoch` does not seed."""
        seeded = {id(one) for one in self.generators()}
        owners = (self.loader.dataset, *self._samplers())
        return own_generators(owners, seeded)

    def _samplers(self) -> list[Any]:
        """Return the objects that determine the order: the samplers, and an iterable dataset."""
        batches = self.loader.batch_sampler
        owners = (self.loader.sampler, batches, getattr(batches, "sampler", None))
        streams = isinstance(self.loader.dataset, IterableDataset)
        return [*owners, self.loader.dataset] if streams else list(owners)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore the generators, and the samplers' epochs, when the block ends."""
        counters = [o for o in self._samplers() if hasattr(o, "set_epoch") and hasattr(o, "epoch")]
        epochs = [counter.epoch for counter in counters]
        with super().untouched(), self.own_epochs.kept():
            try:
                yield
            finally:
                for counter, epoch in zip(counters, epochs, strict=True):
                    counter.set_epoch(epoch)

    def begin_epoch(self, seed: int, epoch: int) -> int:
        """Set the order of one epoch, from `seed` and `epoch` alone.

        Returns:
            The seed of what else is drawn while the epoch is read, such as augmentation.
        """
        order = derive_seed(seed, "order", epoch)
        for generator in self.generators():
            generator.manual_seed(order)
        for owner in self._samplers():
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(epoch)
        self.own_epochs.begin(epoch)
        return order

    def _epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield one epoch from batch `skip` on, its order drawn from `seed` and `epoch` alone."""
        order = self.begin_epoch(seed, epoch)
        # Samplers, shuffle buffers and augmentation draw from the global random state. With a
        # separate state per epoch, an epoch that is iterated again is the same.
        own = OwnRandomness(order)
        batches: Iterator[Batch] | None = None
        try:
            with own:
                batches = iter(self.loader)
            while True:
                with own:
                    batch = next(batches, _END)
                if batch is _END:
                    self.own_epochs.end()
                    return
                if skip == 0:
                    yield batch
                skip = max(0, skip - 1)
        except Exception as error:
            raise TaskError(
                f"the {self.name} failed: {type(error).__name__}: {error}{where(error)}"
            ) from error
        finally:
            _end_workers(batches)

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield the loader's batches, epoch after epoch; a resumed stream skips used ones."""
        while True:
            for batch in self._epoch(seed, cursor.epoch, skip=cursor.batch):
                cursor.batch += 1
                yield batch
            if cursor.batch == 0:
                raise TaskError(self._nothing(cursor.epoch))
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0

    def _nothing(self, epoch: int) -> str:
        if epoch == 0:
            return f"the {self.name} returned no batch: its dataset is empty"
        return (
            f"the {self.name} returned no batch in epoch {epoch + 1}: its dataset's __iter__ must "
            "start from the beginning each time it is called"
        )

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield one epoch of the loader, in a fixed order even if the loader shuffles."""
        for batch in self._epoch(0, 0):
            yield batch, rows(batch)


class IterableData(LoaderData):
    """An IterableDataset, batched here; its order is seeded like that of a DataLoader.

    Training takes full batches only; a sweep takes every sample.
    """

    def __init__(self, dataset: IterableDataset[Any]) -> None:
        super().__init__(DataLoader(dataset), "IterableDataset")
        self.dataset = dataset
        try:
            self.samples = len(dataset)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            self.samples = None

    def _batched(self, batch_size: int, *, whole: bool) -> LoaderData:
        loader = DataLoader(self.dataset, batch_size=batch_size, drop_last=whole)
        found = _Batched(loader, "IterableDataset")
        found.own_epochs = self.own_epochs
        return found

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of full batches, or None if the dataset has no length."""
        return None if self.samples is None else self.samples // batch_size

    def check(self, batch_size: int | None) -> int:
        """Return `batch_size`; for None, 64, or all samples if there are fewer."""
        return checked_size(batch_size, self.samples)

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield full batches, epoch after epoch; a resumed stream skips used ones."""
        return self._batched(batch_size, whole=True).stream(batch_size, seed, cursor)

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield every sample of one epoch, in one fixed order."""
        return self._batched(batch_size, whole=False).sweep(batch_size)


class _Batched(LoaderData):
    """An IterableDataset in batches of a fixed size, for one iteration."""

    def _nothing(self, epoch: int) -> str:
        if epoch == 0:
            return (
                f"train is an IterableDataset with fewer than {self.loader.batch_size} samples in "
                "an epoch, or none: give a smaller batch_size"
            )
        return super()._nothing(epoch)
