"""A bare IterableDataset as data: batched, swept, told the epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
)

from etude.errors import BadValueError, TaskError
from etude.tasks.sources.data import Cursor, as_data
from tests.tasks.common import COUNT, Nothing, Stream, numbers


class Plainly(IterableDataset):
    """Passes samples on in their order."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for index in range(COUNT):
            yield {"x": torch.tensor([float(index)]), "y": torch.tensor(index)}


@given(size=st.integers(1, COUNT), count=st.integers(1, 12))
def test_a_bare_stream_is_batched_as_a_loader_that_drops_the_rest(size, count):
    bare, loader = Plainly(), DataLoader(Plainly(), batch_size=size, drop_last=True)
    theirs = as_data(loader, "train").stream(size, 0, Cursor())
    ours = as_data(bare, "train").stream(size, 0, Cursor())
    for _ in range(count):
        one, other = next(ours), next(theirs)
        assert list(one) == list(other)
        assert numbers(one) == numbers(other)


@given(size=st.integers(1, 2 * COUNT))
def test_a_bare_stream_is_swept_whole(size):
    swept = list(as_data(Plainly(), "valid").sweep(size))
    assert [n for _, n in swept] == [len(b["y"]) for b, _ in swept]
    assert torch.cat([b["y"] for b, _ in swept]).tolist() == list(range(COUNT))


def test_a_bare_stream_that_counts_epochs_is_told_the_epoch():
    class Counting(IterableDataset):
        epoch = 7

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Iterator[Tensor]:
            yield from torch.full((8,), float(self.epoch))

    source = Counting()
    data = as_data(source, "train")
    with data.untouched():
        seen = [float(b[0]) for b in islice(data.stream(4, 0, Cursor(2, 1)), 4)]
    assert seen == [2, 3, 3, 4]
    assert source.epoch == 7


class CountsItself(IterableDataset):
    """Is in another order in each epoch, by a count of its own."""

    epoch = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        draw = torch.Generator().manual_seed(self.epoch)
        yield from torch.randperm(8, generator=draw).float()


@pytest.mark.parametrize("wrap", [lambda source: source, lambda source: DataLoader(source, 4)])
def test_a_stream_that_counts_its_own_epochs_gives_every_trial_the_same_batches(wrap):
    source = CountsItself()
    data = as_data(wrap(source), "train")

    def batches(cursor: Cursor, count: int) -> list[list[float]]:
        return [b.tolist() for b in islice(data.stream(4, 0, cursor), count)]

    first = batches(Cursor(), 6)
    assert len({tuple(sorted(map(tuple, first[i : i + 2]))) for i in (0, 2, 4)}) > 1
    assert batches(Cursor(), 6) == first
    assert batches(Cursor(1, 1), 3) == first[3:]
    with data.untouched():
        batches(Cursor(), 2)
        before = list(data.sweep(4))
    assert source.epoch == 3
    assert [b.tolist() for b, _ in before] == [b.tolist() for b, _ in data.sweep(4)]


def test_a_run_that_goes_on_elsewhere_is_told_that_the_count_is_lost():
    data = as_data(CountsItself(), "train")
    with pytest.warns(UserWarning, match=r"CountsItself\.epoch\), and no checkpoint .* set_epoch"):
        list(islice(data.stream(4, 0, Cursor(2, 0)), 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(islice(data.stream(4, 0, Cursor(2, 0)), 7))
        list(islice(as_data(CountsItself(), "train").stream(4, 0, Cursor()), 7))
        list(islice(as_data(Plainly(), "train").stream(4, 0, Cursor(2, 0)), 14))


def test_a_bare_stream_knows_its_size_or_does_not():
    sized, endless = as_data(Stream(sized=True), "train"), as_data(Stream(sized=False), "train")
    assert (sized.samples, sized.check(None), sized.steps_per_epoch(4)) == (COUNT, COUNT, 5)
    assert (endless.samples, endless.check(None), endless.steps_per_epoch(4)) == (None, 64, None)
    assert endless.check(1000) == 1000
    with pytest.raises(BadValueError, match=r"batch_size=24 is larger than the 23 .*<= 23"):
        sized.check(24)


def test_a_bare_stream_that_is_too_short_or_comes_only_once_is_named():
    with pytest.raises(TaskError, match="fewer than 2 samples in an epoch, or none: give a smal"):
        next(as_data(Nothing(), "train").stream(2, 0, Cursor()))

    class Once(Plainly):
        def __init__(self) -> None:
            self.left = super().__iter__()

        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            return self.left

    with pytest.raises(
        TaskError, match=r"returned no batch in epoch 2: .* must start from the beginning each time"
    ):
        list(islice(as_data(Once(), "train").stream(4, 0, Cursor()), 6))


def test_a_bare_stream_that_fails_is_named_with_its_line():
    class Broken(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            yield 1
            raise KeyError("shard 3 is gone")

    said = r"IterableDataset failed: .*shard 3 is gone.*test_streams\.py"
    with pytest.raises(TaskError, match=said):
        list(as_data(Broken(), "valid").sweep(4))
