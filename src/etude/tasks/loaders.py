"""Data in an order of its own: the user's DataLoader, or a bare IterableDataset."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from etude.errors import BadValueError, TaskError, where
from etude.randomness import OwnRandomness, derive_seed
from etude.tasks.source import Batch, Cursor, Data, checked_size, rows
from etude.torch_internals import end_workers

_END = object()


def _end_workers(batches: object) -> None:
    """End the worker processes of a walk, also those that Ctrl-C has killed already.

    torch tells of a dead worker in whatever code runs at the time. While a walk is being given up
    that is no news, and from `__del__` it would end as a traceback on the user's screen.
    """
    with suppress(RuntimeError):
        end_workers(batches)


class LoaderData(Data):
    """The user's own DataLoader: its batching and its order, seeded per epoch."""

    def __init__(self, loader: DataLoader[Any], name: str = "DataLoader") -> None:
        self.name = name
        if loader.persistent_workers:
            # Its one set of workers would serve one walk at a time, and carry their random state
            # from epoch to epoch: paired candidates would read each other's batches.
            loader = copy.copy(loader)
            vars(loader)["persistent_workers"] = False
        self.loader = loader
        iterable = isinstance(loader.dataset, IterableDataset)
        self.samples = None if iterable else len(loader.dataset)  # type: ignore[arg-type]

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the loader's length, where it has one."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def check(self, batch_size: int | None) -> int:
        """Return the loader's own batch size; a recipe that wants another one is refused."""
        own = self.loader.batch_size
        if own is None:
            own = getattr(self.loader.batch_sampler, "batch_size", None)
        if batch_size is not None and own is not None and batch_size != own:
            raise BadValueError(
                f"the recipe asks for batch_size={batch_size}, but the DataLoader makes batches "
                f"of {own}: leave batch_size out, or build the loader with {batch_size}"
            )
        return own or batch_size or 1

    def generators(self) -> list[torch.Generator]:
        """Return the generators of the loader and its samplers."""
        found = [getattr(owner, "generator", None) for owner in (self.loader, *self._samplers())]
        unique = {id(g): g for g in found if isinstance(g, torch.Generator)}
        return list(unique.values())

    def _samplers(self) -> list[Any]:
        """Return whatever has a say in the order: the samplers, and a dataset that streams."""
        batches = self.loader.batch_sampler
        owners = (self.loader.sampler, batches, getattr(batches, "sampler", None))
        streams = isinstance(self.loader.dataset, IterableDataset)
        return [*owners, self.loader.dataset] if streams else list(owners)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Restore the generators, and the epoch of a sampler that counts epochs."""
        counters = [o for o in self._samplers() if hasattr(o, "set_epoch") and hasattr(o, "epoch")]
        epochs = [counter.epoch for counter in counters]
        with super().untouched():
            try:
                yield
            finally:
                for counter, epoch in zip(counters, epochs, strict=True):
                    counter.set_epoch(epoch)

    def _epoch(self, seed: int, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield one epoch from batch `skip` on, its order drawn from `seed` and `epoch` alone."""
        order = derive_seed(seed, "order", epoch)
        for generator in self.generators():
            generator.manual_seed(order)
        for owner in self._samplers():
            if hasattr(owner, "set_epoch"):
                owner.set_epoch(epoch)
        # Samplers, shuffle buffers and augmentation draw from the global state whenever they
        # like: with a state of their own, an epoch walked again is the same epoch.
        own = OwnRandomness(order)
        batches: Iterator[Batch] | None = None
        try:
            with own:
                batches = iter(self.loader)
            while True:
                with own:
                    batch = next(batches, _END)
                if batch is _END:
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
        """Yield the loader's batches, epoch after epoch; a resumed one skips what was used."""
        while True:
            for batch in self._epoch(seed, cursor.epoch, skip=cursor.batch):
                cursor.batch += 1
                yield batch
            if cursor.batch == 0:
                raise TaskError(self._nothing(cursor.epoch))
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0

    def _nothing(self, epoch: int) -> str:
        if epoch == 0:
            return f"the {self.name} gave no batch: its dataset is empty"
        return (
            f"the {self.name} gave no batch in epoch {epoch + 1}: its dataset's __iter__ must "
            "begin anew each time it is called"
        )

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield one epoch of the loader; a shuffled one is walked in one fixed order."""
        for batch in self._epoch(0, 0):
            yield batch, rows(batch)


class IterableData(LoaderData):
    """A bare IterableDataset, batched here; its order is seeded as a DataLoader's is.

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
        return _Batched(loader, "IterableDataset")

    def steps_per_epoch(self, batch_size: int) -> int | None:
        """Return the number of full batches, where the dataset has a length."""
        return None if self.samples is None else self.samples // batch_size

    def check(self, batch_size: int | None) -> int:
        """Return `batch_size`, or 64 (or all samples, if fewer) where none is asked for."""
        return checked_size(batch_size, self.samples)

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield full batches, epoch after epoch; a resumed stream skips what was used."""
        return self._batched(batch_size, whole=True).stream(batch_size, seed, cursor)

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield every sample of one epoch, in one fixed order."""
        return self._batched(batch_size, whole=False).sweep(batch_size)


class _Batched(LoaderData):
    """An IterableDataset in batches of a size, for one walk."""

    def _nothing(self, epoch: int) -> str:
        if epoch == 0:
            return (
                f"train is an IterableDataset with fewer than {self.loader.batch_size} samples in "
                "an epoch, or none: give a smaller batch_size"
            )
        return super()._nothing(epoch)
