"""One interface for every kind of data: tensors, a Dataset, a stream, or a DataLoader.

Tensors are batched by indexing, without Python code per sample. A Dataset is indexed by the same
permutations. A DataLoader keeps its own batching and order. In every case the order depends on
the seed and the epoch alone, so that a run can be resumed from any position.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torch.utils.data import default_collate as collate

from etude.errors import BadTypeError, TaskError, kind_of, where
from etude.randomness import derive_seed
from etude.tasks.sources.frames import is_table, numbers_of
from etude.tasks.sources.loaders import IterableData, LoaderData
from etude.tasks.sources.nested import mapped, tensors_of
from etude.tasks.sources.own_generators import own_generators
from etude.tasks.sources.source import Batch, Cursor, Data, checked_size, rows, split_rows

__all__ = [
    "Batch",
    "Cursor",
    "Data",
    "DatasetData",
    "IndexedData",
    "IterableData",
    "LoaderData",
    "NestedData",
    "TensorData",
    "as_data",
    "rows",
]


class IndexedData(Data):
    """Data whose samples are read by index."""

    samples: int

    @abstractmethod
    def take(self, index: Tensor) -> Batch:
        """Return the batch that holds the samples at `index`."""

    @abstractmethod
    def part(self, index: Tensor) -> IndexedData:
        """Return the data that holds only the samples at `index`."""

    def held(self, index: Tensor) -> IndexedData:
        """Return the same, as validation data."""
        return self.part(index)

    def why_whole(self) -> str:
        """Return nothing: any part can be taken."""
        return ""

    def beside(self, index: Tensor) -> Tensor:
        """Return indices on the device on which `take` needs them."""
        return index

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of full batches; the samples left over join the next shuffle."""
        return self.samples // batch_size

    def check(self, batch_size: int | None) -> int:
        """Return `batch_size`; for None, 64, or all samples if there are fewer."""
        return checked_size(batch_size, self.samples)

    def stream(self, batch_size: int, seed: int, cursor: Cursor) -> Iterator[Batch]:
        """Yield batches of a fresh permutation each epoch, full batches only."""
        while True:
            permutation = self._order(seed, cursor.epoch)
            count = self.steps_per_epoch(batch_size)
            while cursor.batch < count:
                start = cursor.batch * batch_size
                cursor.batch += 1
                yield self.take(permutation[start : start + batch_size])
            cursor.epoch, cursor.batch = cursor.epoch + 1, 0

    def _order(self, seed: int, epoch: int) -> Tensor:
        """Return the permutation of an epoch; all trials of a tuning begin with the same one."""
        kept = _LAST_ORDERS.get(self)
        if kept is not None and kept[0] == (seed, epoch):
            return kept[1]
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        found = self.beside(torch.randperm(self.samples, generator=generator))
        _LAST_ORDERS[self] = (seed, epoch), found
        return found

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield the samples in their own order."""
        for start in range(0, self.samples, batch_size):
            index = torch.arange(start, min(start + batch_size, self.samples))
            yield self.take(index), len(index)

    def split(self, share: float) -> tuple[IndexedData, IndexedData]:
        """Return (rest, held out) where a fixed random `share` of the samples is held out."""
        rest, held = split_rows(self.samples, share)
        return self.part(rest), self.part(held)


_LAST_ORDERS: WeakKeyDictionary[IndexedData, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()
"""The last permutation of each data set: of a large one it takes longer than many updates."""


class TensorData(IndexedData):
    """Tensors with a common first axis: a tuple of them, or a mapping from name to tensor.

    Args:
        tensors: The tensors, with one row per sample.
        origin: The row numbers in the user's tensors, if these are a part of them.
    """

    def __init__(
        self, tensors: tuple[Tensor, ...] | dict[str, Tensor], origin: Tensor | None = None
    ) -> None:
        self.tensors, self.origin = tensors, origin
        self._all = list(tensors.values() if isinstance(tensors, dict) else tensors)
        if any(t.is_meta for t in self._all):
            raise TaskError(
                "the data are on the meta device, where a tensor has a shape and no values: give "
                "tensors made outside of torch.device('meta')"
            )
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

    def beside(self, index: Tensor) -> Tensor:
        """Move an epoch's indices to the device once: copying per batch would wait for it."""
        return index.to(self._all[0].device)

    def part(self, index: Tensor) -> TensorData:
        """Copy the rows at `index`."""
        return TensorData(self.take(index), index if self.origin is None else self.origin[index])

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield slices, which copy nothing."""
        for start in range(0, self.samples, batch_size):
            rows = [t[start : start + batch_size] for t in self._all]
            yield self._each(rows), len(rows[0])

    def to(self, device: torch.device) -> TensorData:
        """Move every tensor once."""
        there = [t.to(device) for t in self._all]
        if all(new is old for new, old in zip(there, self._all, strict=True)):
            return self
        return TensorData(self._each(there), self.origin)

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

    def own_generators(self) -> list[str]:
        """Return those that the Dataset keeps."""
        return own_generators([self.dataset])

    def take(self, index: Tensor) -> Batch:
        """Fetch and collate the items."""
        indices = index.tolist()
        many = getattr(self.dataset, "__getitems__", None)
        try:
            return collate(many(indices) if many else [self.dataset[i] for i in indices])
        except Exception as error:
            raise TaskError(
                f"the Dataset failed: {type(error).__name__}: {error}{where(error)}"
            ) from error

    def part(self, index: Tensor) -> DatasetData:
        """Return the data of a Subset."""
        return DatasetData(Subset(self.dataset, index.tolist()))


class NestedData(IndexedData):
    """Tensors with a common first axis, in nested tuples and mappings.

    Args:
        tree: Such as `((text, picture), label)` or `({"ids": ids, "mask": mask}, label)`.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self._flat = TensorData(tuple(tensors_of(tree)))
        self.samples = self._flat.samples

    def take(self, index: Tensor) -> Batch:
        """Index every tensor."""
        return mapped(self.tree, lambda t: t[index.to(t.device)])

    def beside(self, index: Tensor) -> Tensor:
        """Move an epoch's indices to the device once."""
        return self._flat.beside(index)

    def part(self, index: Tensor) -> NestedData:
        """Copy the rows at `index`."""
        return NestedData(self.take(index))

    def sweep(self, batch_size: int) -> Iterator[tuple[Batch, int]]:
        """Yield slices, which copy nothing."""
        for start in range(0, self.samples, batch_size):
            end = min(start + batch_size, self.samples)
            yield mapped(self.tree, itemgetter(slice(start, end))), end - start

    def to(self, device: torch.device) -> NestedData:
        """Move every tensor once."""
        if self._flat.to(device) is self._flat:
            return self
        return NestedData(mapped(self.tree, lambda t: t.to(device)))

    def targets(self) -> int:
        """Count those of the last tensor."""
        return self._flat.targets()


def _tensor(value: Any) -> Tensor:
    if is_table(value):
        value = numbers_of(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc":
            raise BadTypeError(f"expected an array of numbers, got one of dtype {value.dtype}")
        # NumPy's default float is double, a network's is single: without the conversion the
        # first layer would fail.
        return torch.as_tensor(value, dtype=torch.float32 if value.dtype == np.float64 else None)
    if isinstance(value, Tensor):
        return value.detach()
    raise BadTypeError(
        f"expected a tensor or array, got {type(value).__name__}: pass (inputs, targets) as "
        "tensors, a Dataset, or a DataLoader"
    )


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or is_table(value)


def _nests(parts: Iterable[Any]) -> bool:
    """Return whether one of some values holds others."""
    return any(isinstance(part, (Mapping, tuple, list)) for part in parts)


def _is_tree(value: Any) -> bool:
    """Return whether nested tuples and mappings hold nothing but tensors, with one nested."""
    if not isinstance(value, (Mapping, tuple, list)):
        return False

    def holds(part: Any) -> bool:
        if isinstance(part, (Mapping, tuple, list)):
            parts = part.values() if isinstance(part, Mapping) else part
            return bool(part) and all(map(holds, parts))
        return _is_leaf(part)

    return _nests(value.values() if isinstance(value, Mapping) else value) and holds(value)


def _lists_samples(value: Any) -> bool:
    """Return whether a value is a list of nothing but tuples or mappings: one for each sample."""
    return isinstance(value, list) and all(_nests([part]) for part in value)


def as_data(source: Any, what: str) -> Data:
    """Return what the user gave as `what` ('train' or 'valid') as a Data object.

    Args:
        source: A tensor, an array, a table of pandas or polars, a tuple, list or mapping of them,
            also nested, a Dataset of either style, a DataLoader, or a Data.
        what: The argument's name, for error messages.

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
        data = IterableData(source)
    elif isinstance(source, (Tensor, np.ndarray)) or is_table(source):
        data = TensorData((_tensor(source),))
    elif _is_tree(source) and not _lists_samples(source):
        data = NestedData(mapped(source, _tensor))
    elif isinstance(source, Mapping):
        data = TensorData({str(k): _tensor(v) for k, v in source.items()})
    elif isinstance(source, (tuple, list)) and source:
        if not all(_is_leaf(part) for part in source):
            kinds = ", ".join(type(part).__name__ for part in source[:4])
            raise BadTypeError(
                f"{what} is {kind_of(source)} of {kinds}: pass tensors with one row per "
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
        raise BadTypeError(f"{what} is {kind_of(source)}: pass tensors, a Dataset, or a DataLoader")
    if data.samples == 0:
        raise TaskError(f"{what} is empty: it has 0 samples, and at least 1 is needed")
    return data
