"""One face for every kind of data: tensors, a Dataset, or the user's own DataLoader.

Tensors are batched by indexing, without Python per sample. A Dataset is indexed by the same
permutations. A DataLoader keeps its own batching and order. In every case the order is a
function of the seed and the epoch alone, so that a run can go on from any position.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data import default_collate as collate

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.randomness import OwnRandomness, derive_seed

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
        """Return the batch size in force, or raise where the wanted one cannot be had."""

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


class IndexedData(Data):
    """Data that can be asked for any samples by their indices."""

    samples: int

    @abstractmethod
    def take(self, index: Tensor) -> Batch:
        """Return the batch that holds the samples at `index`."""

    @abstractmethod
    def part(self, index: Tensor) -> IndexedData:
        """Return the data that holds only the samples at `index`."""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of full batches: what is left over joins the next shuffle."""
        return self.samples // batch_size

    def check(self, batch_size: int | None) -> int:
        """Return `batch_size`, or 64 (or all samples, if fewer) where none is asked for."""
        if batch_size is None:
            return min(64, self.samples)
        if batch_size > self.samples:
            raise BadValueError(
                f"batch_size={batch_size} is larger than the {self.samples} training samples: "
                f"give batch_size <= {self.samples}"
            )
        return batch_size

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield batches of a fresh permutation each epoch, full batches only."""
        while True:
            order = torch.Generator().manual_seed(derive_seed(seed, "order", cursor.epoch))
            permutation = torch.randperm(self.samples, generator=order)
            count = self.steps_per_epoch(batch_size)
            while cursor.batch < count:
                start = cursor.batch * batch_size
                cursor.batch += 1
                yield self.take(permutation[start : start + batch_size])
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield the samples in their own order."""
        for start in range(0, self.samples, batch_size):
            index = torch.arange(start, min(start + batch_size, self.samples))
            yield self.take(index), len(index)

    def split(self, share: float) -> tuple[IndexedData, IndexedData]:
        """Return (rest, held out) where a fixed random `share` of the samples is held out."""
        held = round(self.samples * share)
        if not 0 < held < self.samples:
            raise BadValueError(
                f"valid={share} of {self.samples} samples leaves a part empty: "
                "give a share between 0 and 1, or pass valid= as data"
            )
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(0))
        return self.part(order[held:].sort().values), self.part(order[:held].sort().values)


class TensorData(IndexedData):
    """Tensors with a common first axis: a tuple of them, or a mapping from name to tensor."""

    def __init__(self, tensors: tuple[Tensor, ...] | dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._all = list(tensors.values() if isinstance(tensors, dict) else tensors)
        sizes = {len(t) if t.ndim else None for t in self._all}
        if len(sizes) != 1 or None in sizes:
            shapes = ", ".join(str(tuple(t.shape)) for t in self._all)
            raise TaskError(
                f"the tensors' first axes differ (shapes {shapes}): "
                "each must hold one row per sample"
            )
        self.samples = len(self._all[0])

    def _each(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...] | dict[str, Tensor]:
        if isinstance(self.tensors, dict):
            return dict(zip(self.tensors, tensors, strict=True))
        return tuple(tensors)

    def take(self, index: Tensor) -> Batch:
        """Index every tensor."""
        return self._each([t[index.to(t.device)] for t in self._all])

    def part(self, index: Tensor) -> TensorData:
        """Copy the rows at `index`."""
        return TensorData(self.take(index))

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield slices, which copy nothing."""
        for start in range(0, self.samples, batch_size):
            rows = [t[start : start + batch_size] for t in self._all]
            yield self._each(rows), len(rows[0])

    def to(self, device: torch.device) -> TensorData:
        """Move every tensor once."""
        if all(t.device == device for t in self._all):
            return self
        return TensorData(self._each([t.to(device) for t in self._all]))

    def targets(self) -> int:
        """Count labels or tokens for whole-number targets, samples for any other."""
        last = self._all[-1]
        return self.samples if last.is_floating_point() else last.numel()


class DatasetData(IndexedData):
    """A map-style Dataset, collated the way a DataLoader does."""

    draws = True

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        self.samples = len(dataset)  # type: ignore[arg-type]

    def take(self, index: Tensor) -> Batch:
        """Fetch and collate the items."""
        indices = index.tolist()
        many = getattr(self.dataset, "__getitems__", None)
        try:
            return collate(many(indices) if many else [self.dataset[i] for i in indices])
        except Exception as error:
            raise TaskError(f"the Dataset failed: {type(error).__name__}: {error}") from error

    def part(self, index: Tensor) -> DatasetData:
        """Return a Subset."""
        return DatasetData(Subset(self.dataset, index.tolist()))


_END = object()


class LoaderData(Data):
    """The user's own DataLoader: its batching and its order, seeded per epoch."""

    def __init__(self, loader: DataLoader[Any]) -> None:
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
            raise TaskError(f"the DataLoader failed: {type(error).__name__}: {error}") from error

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield the loader's batches, epoch after epoch; a resumed one skips what was used."""
        while True:
            for batch in self._epoch(seed, cursor.epoch, skip=cursor.batch):
                cursor.batch += 1
                yield batch
            if cursor.batch == 0:
                raise TaskError("the DataLoader gave no batch: its dataset is empty")
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield one epoch of the loader; a shuffled one is walked in one fixed order."""
        for batch in self._epoch(0, 0):
            yield batch, _rows(batch)


def _rows(batch: Batch) -> int:
    """Return the number of samples in a batch: the first axis of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(parts, (str, bytes)) or not hasattr(parts, "__iter__"):
        return 1
    return next((_rows(p) for p in parts if isinstance(p, (Tensor, Mapping, list, tuple))), 1)


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise BadTypeError(f"expected an array of numbers, got one of dtype {value.dtype}")
        # NumPy's default float is double, a network's is single: left as it is, the first
        # layer would refuse it.
        return torch.as_tensor(value, dtype=torch.float32 if value.dtype == np.float64 else None)
    if isinstance(value, Tensor):
        return value.detach()
    raise BadTypeError(
        f"expected a tensor or array, got {type(value).__name__}: pass (inputs, targets) as "
        "tensors, a Dataset, or a DataLoader"
    )


def as_data(source: Any, what: str) -> Data:
    """Return the Data that stands for whatever the user gave as `what` ('train' or 'valid').

    Args:
        source: A tensor, an array, a tuple, list or mapping of them, a map-style Dataset, a
            DataLoader, or a Data.
        what: The name to use in an error.

    Raises:
        TaskError: If there are no samples, or the tensors' first axes differ.
        BadTypeError: If `source` is none of the kinds above.

    >>> as_data((torch.zeros(8, 3), torch.zeros(8)), "train").samples
    8
    """
    data: Data
    if isinstance(source, Data):
        data = source
    elif isinstance(source, DataLoader):
        data = LoaderData(source)
    elif isinstance(source, TensorDataset):
        data = TensorData(tuple(source.tensors))
    elif isinstance(source, IterableDataset):
        raise BadTypeError(
            f"{what} is a bare IterableDataset, which has no batches: wrap it as "
            f"DataLoader({what}, batch_size=...)"
        )
    elif isinstance(source, (Tensor, np.ndarray)):
        data = TensorData((_tensor(source),))
    elif isinstance(source, Mapping):
        data = TensorData({str(k): _tensor(v) for k, v in source.items()})
    elif isinstance(source, (tuple, list)) and source:
        if not all(isinstance(part, (Tensor, np.ndarray)) for part in source):
            kinds = ", ".join(type(part).__name__ for part in source[:4])
            raise BadTypeError(
                f"{what} is a {type(source).__name__} of {kinds}: pass tensors with one row per "
                "sample, a Dataset, or a DataLoader"
            )
        data = TensorData(tuple(_tensor(part) for part in source))
    elif (
        hasattr(source, "__getitem__")
        and hasattr(source, "__len__")
        and not isinstance(source, (str, bytes))
    ):
        data = DatasetData(source)
    else:
        raise BadTypeError(
            f"{what} is a {type(source).__name__}: pass tensors, a Dataset, or a DataLoader"
        )
    if data.samples == 0:
        raise TaskError(f"{what} is empty: it has 0 samples, and at least 1 is needed")
    return data
