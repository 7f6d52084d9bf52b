"""The share of every batch that one of several processes takes, so that none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from etude.errors import TaskError, kind_of
from etude.tasks.sources.data import IndexedData
from etude.tasks.sources.loaders import LoaderData
from etude.tasks.sources.source import Batch, Cursor, Data, rows
from etude.torch_internals import flattened, unflattened

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """The part of a global batch that one process trains on.

    Attributes:
        batch: Its samples. If the batch has fewer samples than there are processes, a process
            without one gets the first sample, which does not count.
        rows: The number of samples that count; 0 if none does.
        total: The number of samples in the whole batch.
    """

    batch: Batch
    rows: int
    total: int


def share_of(count: int, rank: int, size: int) -> slice:
    """Return which of `count` things a process takes: in order, the first take one more.

    >>> [share_of(10, rank, 4) for rank in range(4)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None), slice(8, 10, None)]
    """
    each, more = divmod(count, size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def cut(batch: Batch, rank: int, size: int) -> Shard:
    """Return the share of a batch that a process trains on.

    Raises:
        TaskError: If the batch cannot be divided by its first axis.

    >>> cut((torch.arange(5), torch.zeros(5, 2)), 1, 2).batch[0]
    tensor([3, 4])
    """
    total = rows(batch)
    mine = share_of(total, rank, size)
    count = mine.stop - mine.start
    return Shard(_rows(batch, mine if count else slice(0, 1), total), count, total)


def _rows(value: Any, kept: slice, total: int) -> Any:
    if isinstance(value, Tensor):
        if value.ndim and len(value) != total:
            raise TaskError(
                f"a batch of {total} samples cannot be divided over processes: one of its tensors "
                f"has the shape {tuple(value.shape)}; put the samples on the first axis of each"
            )
        return value[kept] if value.ndim else value
    if isinstance(value, Mapping):
        parts = {key: _rows(part, kept, total) for key, part in value.items()}
        return parts if type(value) is dict else type(value)(parts)  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_rows(part, kept, total) for part in value))
    if isinstance(value, (tuple, list)):
        if not any(isinstance(part, (Tensor, Mapping, tuple, list)) for part in value):
            return value[kept] if len(value) == total else value
        return type(value)(_rows(part, kept, total) for part in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TaskError(
        f"{kind_of(value)} in a batch cannot be divided over processes: give tensors, in a "
        "tuple, a list or a mapping"
    )


def sharded_stream(
    data: Data, batch_size: int, seed: int, cursor: Cursor, *, rank: int, size: int
) -> Iterator[Shard]:
    """Yield a process's share of each training batch of one process, in the same order.

    Samples that are read by index are read by the process that trains on them alone. A DataLoader
    is iterated by every process, each of which takes its part of the batch.

    Raises:
        TaskError: If the loader divides its samples over processes itself.
    """
    if isinstance(data, IndexedData) and type(data).stream is IndexedData.stream:
        return _Picked(data, rank, size).stream(batch_size, seed, cursor)
    if isinstance(data, LoaderData):
        _refuse_divided(data)
    return (cut(batch, rank, size) for batch in data.stream(batch_size, seed, cursor))


def _refuse_divided(data: LoaderData) -> None:
    loader = data.loader
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    if any(isinstance(one, DistributedSampler) for one in samplers):
        raise TaskError(
            f"the {data.name} has a DistributedSampler, so that each process would get a part of a "
            "part: leave the sampler out (shuffle=True), each batch is divided here"
        )


Slice = tuple[int, Batch, int]
"""The place of a slice in a sweep, the batch, and its number of samples."""


def sharded_sweep(
    data: Data, batch_size: int, limit: int = 0, *, rank: int, size: int
) -> Iterator[list[Slice]]:
    """Yield every `size`-th group of the slices of a sweep, from `rank` on.

    Args:
        data: The data to read once.
        batch_size: The number of samples of a slice, if the data allow a choice.
        limit: A group holds as many slices as have at most so many samples together; at least one.
            A batch of anything but tensors is a group of its own.
        rank: The number of this process.
        size: The number of processes.

    >>> from etude.tasks.sources.data import as_data
    >>> data = as_data(torch.arange(10), "valid")
    >>> for group in sharded_sweep(data, 2, 4, rank=0, size=2):
    ...     print([(place, count) for place, _, count in group])
    [(0, 2), (1, 2)]
    [(4, 2)]
    """
    if isinstance(data, IndexedData) and type(data).sweep is IndexedData.sweep:
        starts = range(0, data.samples, batch_size)
        index = (torch.arange(i, min(i + batch_size, data.samples)) for i in starts)
        for group in islice(_grouped(((i, len(i)) for i in index), limit), rank, None, size):
            yield [(place, data.take(rows), count) for place, rows, count in group]
    else:
        keep = _itself if isinstance(data, IndexedData) else _copy
        yield from islice(_grouped(data.sweep(batch_size), limit, keep), rank, None, size)


def _itself(value: T) -> T:
    return value


def _grouped(
    slices: Iterable[tuple[T, int]], limit: int, keep: Callable[[T], T | None] = _itself
) -> Iterator[list[tuple[int, T, int]]]:
    """Yield consecutive slices in groups, with their places.

    Args:
        slices: The slices, each with its number of samples.
        limit: The largest number of samples of a group of several.
        keep: What a slice is kept as while the next is read; None if it cannot be kept.
    """
    group: list[tuple[int, T, int]] = []
    for place, (batch, count) in enumerate(slices):
        if group and sum(one[2] for one in group) + count > limit:
            yield group
            group = []
        kept = None if count >= limit else keep(batch)
        if kept is not None:
            group.append((place, kept, count))
            continue
        if group:
            yield group
            group = []
        yield [(place, batch, count)]  # without reading ahead
    if group:
        yield group


def _copy(batch: Batch) -> Batch | None:
    """Return a copy of a batch of tensors, since its source may write the next into its memory."""
    leaves, shape = flattened(batch)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    return unflattened([leaf.clone() for leaf in leaves], shape)


class _Picked(IndexedData):
    """Indexed data, of whose batches one process takes its share."""

    def __init__(self, data: IndexedData, rank: int, size: int) -> None:
        self.data, self.rank, self.size = data, rank, size
        self.samples, self.draws = data.samples, data.draws

    def take(self, index: Tensor) -> Shard:
        """Return the share of the batch at `index`."""
        mine = share_of(len(index), self.rank, self.size)
        count = mine.stop - mine.start
        return Shard(self.data.take(index[mine] if count else index[:1]), count, len(index))

    def part(self, index: Tensor) -> IndexedData:
        """Return the data that holds only the samples at `index`."""
        return _Picked(self.data.part(index), self.rank, self.size)

    def beside(self, index: Tensor) -> Tensor:
        """Return indices on the device on which the data needs them."""
        return self.data.beside(index)
