"""The shares of all processes together are the batch of one, and none is lost."""

from __future__ import annotations

from collections import namedtuple
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from etude.errors import TaskError
from etude.tasks.sources.data import as_data
from etude.tasks.sources.shards import cut, sharded_stream, sharded_sweep, share_of
from etude.tasks.sources.source import Cursor


class Numbered(Dataset):
    """The items of a tensor, one by one."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def numbers_in(batch):
    """Return the tensor of a batch that holds one."""
    return batch if isinstance(batch, torch.Tensor) else batch[0]


counts = st.tuples(st.integers(0, 40), st.integers(1, 9))


@given(counts)
def test_shares_are_all_of_it_in_order_and_differ_by_one_at_most(pair):
    count, size = pair
    shares = [share_of(count, rank, size) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 40), st.integers(1, 9))
def test_the_parts_of_a_batch_are_the_batch(count, size):
    batch = (
        torch.arange(count),
        {"x": torch.rand(count, 2), "names": [str(i) for i in range(count)]},
    )
    shards = [cut(batch, rank, size) for rank in range(size)]
    counted = [shard for shard in shards if shard.rows]
    assert torch.equal(torch.cat([shard.batch[0] for shard in counted]), batch[0])
    assert torch.equal(torch.cat([shard.batch[1]["x"] for shard in counted]), batch[1]["x"])
    names = [name for shard in counted for name in shard.batch[1]["names"]]
    assert names == batch[1]["names"]
    assert sum(shard.rows for shard in shards) == count
    assert {shard.total for shard in shards} == {count}
    assert all(len(shard.batch[0]) == max(1, shard.rows) for shard in shards)


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    """A dataset that notes which samples were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read.append(index)
        return torch.full((2,), float(index)), index


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["tensors", "dataset", "loader"])
def test_the_shares_of_a_stream_are_the_batches_of_one_process(kind, size):
    x = torch.arange(23)
    source = {
        "tensors": (x, x.double()),
        "dataset": Pairs(),
        "loader": DataLoader(TensorDataset(x, x), batch_size=5, shuffle=True),
    }[kind]
    data = as_data(source, "train")
    whole = [batch[1] for batch in islice(data.stream(5, 7, Cursor()), 11)]
    shares = [
        list(islice(sharded_stream(data, 5, 7, Cursor(), rank=rank, size=size), 11))
        for rank in range(size)
    ]
    for place, expected in enumerate(whole):
        parts = [own[place].batch[1] for own in shares if own[place].rows]
        assert torch.equal(torch.cat(parts), expected)


def test_a_process_reads_its_own_samples_alone():
    pairs = Pairs()
    shards = list(
        islice(sharded_stream(as_data(pairs, "train"), 6, 0, Cursor(), rank=1, size=3), 3)
    )
    assert pairs.read == [int(i) for shard in shards for i in shard.batch[1]]
    assert len(pairs.read) == 6


def test_a_stream_goes_on_from_its_cursor():
    data, cursor = as_data(torch.arange(23), "train"), Cursor()
    stream = sharded_stream(data, 5, 7, cursor, rank=0, size=2)
    list(islice(stream, 6))
    saved = Cursor(cursor.epoch, cursor.batch)
    expected = [shard.batch[0] for shard in islice(stream, 5)]
    again = sharded_stream(data, 5, 7, saved, rank=0, size=2)
    for one, other in zip(islice(again, 5), expected, strict=True):
        assert torch.equal(one.batch[0], other)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 20), st.integers(1, 5))
def test_the_slices_of_a_sweep_are_divided_in_the_same_groups(count, rows, limit, size):
    numbers = torch.arange(count)
    for source in (numbers, Numbered(numbers), DataLoader(numbers, batch_size=rows)):
        data = as_data(source, "valid")
        whole = list(enumerate(data.sweep(rows)))
        alone = list(sharded_sweep(data, rows, limit, rank=0, size=1))
        ranks = [list(sharded_sweep(data, rows, limit, rank=r, size=size)) for r in range(size)]
        for i, group in enumerate(alone):
            taken = ranks[i % size][i // size]
            assert [(place, n) for place, _, n in taken] == [(place, n) for place, _, n in group]
            assert len(group) == 1 or sum(n for *_, n in group) <= limit
        assert sum(map(len, ranks)) == len(alone)
        found = [one for group in alone for one in group]
        assert [place for place, *_ in found] == [place for place, _ in whole]
        assert [n for *_, n in found] == [n for _, (_, n) in whole]
        for (_, batch, _), (_, (expected, _)) in zip(found, whole, strict=True):
            assert torch.equal(numbers_in(batch), numbers_in(expected))


@pytest.mark.parametrize("limit", [0, 3])
def test_a_sweep_reads_no_slice_ahead_where_none_can_join(limit):
    read = []

    class Noted(Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            read.append(i)
            return i

    for group in sharded_sweep(as_data(DataLoader(Noted(), 3), "valid"), 3, limit, rank=0, size=1):
        assert len(read) == 3 * (group[0][0] + 1)


def test_a_batch_that_cannot_be_divided_says_why():
    with pytest.raises(TaskError, match=r"one of its tensors has the shape \(3, 4\)"):
        cut((torch.zeros(4, 2), torch.zeros(3, 4)), 0, 2)
    with pytest.raises(TaskError, match="an object in a batch cannot be divided"):
        cut((torch.zeros(4, 2), object()), 0, 2)


def test_a_batch_keeps_its_kind():
    Point = namedtuple("Point", "x y")
    found = cut(Point(torch.arange(4), None), 1, 2).batch
    assert type(found) is Point
    assert found.x.tolist() == [2, 3]
    assert cut([torch.arange(4), torch.tensor(7.0)], 0, 2).batch[1] == 7.0


def test_a_loader_that_divides_its_samples_itself_is_refused():
    data = TensorDataset(torch.arange(10))
    sampler = DistributedSampler(data, num_replicas=2, rank=0)
    loader = as_data(DataLoader(data, batch_size=2, sampler=sampler), "train")
    with pytest.raises(TaskError, match=r"DistributedSampler.*leave the sampler out"):
        sharded_stream(loader, 2, 0, Cursor(), rank=0, size=2)
