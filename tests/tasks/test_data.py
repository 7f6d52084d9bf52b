"""Data: a walk is a function of the seed and the epoch, and it can go on from anywhere."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.randomness import random_state_kept
from etude.tasks.sources.data import Cursor, Data, LoaderData, as_data
from tests.tasks.common import COUNT, Nothing, Plain, Stream, numbers


class Noisy(Plain):
    """Augments each sample with all three global generators."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return torch.tensor([index + 0.01 * float(noise)]), index


class Epochs(Sampler):
    """Counts epochs as DistributedSampler does."""

    def __init__(self) -> None:
        self.epoch = 3

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng(self.epoch).permutation(COUNT).tolist()

    def __len__(self) -> int:
        return COUNT


class EpochBatches(Epochs):
    """The same as a batch sampler."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from np.random.default_rng(self.epoch).permutation(COUNT)[:20].reshape(5, 4).tolist()

    def __len__(self) -> int:
        return 5


class Lazy(Sampler):
    """Draws a few indices ahead from Python's generator, as it needs them."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(5):
            yield from [random.randrange(COUNT) for _ in range(4)]

    def __len__(self) -> int:
        return 20


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(99)


X = torch.arange(COUNT, dtype=torch.float32)[:, None]
Y = torch.arange(COUNT)
SOURCES = {
    "tensors": lambda: (X, Y),
    "mapping": lambda: {"x": X, "y": Y},
    "numpy": lambda: (X.numpy(), Y.numpy()),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": Plain,
    "loader": lambda: DataLoader(Plain(), batch_size=4),
    "loader shuffled": lambda: DataLoader(Plain(), batch_size=4, shuffle=True),
    "loader drop_last": lambda: DataLoader(Plain(), batch_size=4, shuffle=True, drop_last=True),
    "loader own generator": lambda: DataLoader(
        Plain(), batch_size=4, shuffle=True, generator=own_generator()
    ),
    "sampler own generator": lambda: DataLoader(
        Plain(), batch_size=4, sampler=RandomSampler(Plain(), generator=own_generator())
    ),
    "replacement": lambda: DataLoader(
        Plain(),
        batch_size=4,
        sampler=RandomSampler(
            Plain(), replacement=True, num_samples=50, generator=own_generator()
        ),
    ),
    "weighted": lambda: DataLoader(
        Plain(), batch_size=4, sampler=WeightedRandomSampler([1.0] * COUNT, 20)
    ),
    "set_epoch": lambda: DataLoader(Plain(), batch_size=4, sampler=Epochs()),
    "batch sampler": lambda: DataLoader(
        Plain(), batch_sampler=BatchSampler(RandomSampler(Plain()), 4, drop_last=False)
    ),
    "batch sampler set_epoch": lambda: DataLoader(Plain(), batch_sampler=EpochBatches()),
    "lazy sampler": lambda: DataLoader(Plain(), batch_size=4, sampler=Lazy()),
    "augmented": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "stream": lambda: DataLoader(Stream(sized=True), batch_size=4),
    "stream without length": lambda: DataLoader(Stream(sized=False), batch_size=4),
    "bare stream": lambda: Stream(sized=True),
    "bare stream without length": lambda: Stream(sized=False),
}  # fmt: skip
SHUFFLED = [name for name in SOURCES if name != "loader"]
LOADERS = [name for name, make in SOURCES.items() if isinstance(make(), DataLoader)]


def walk(data: Data, count: int, seed: int = 0, cursor: Cursor | None = None) -> list[list[float]]:
    stream = data.stream(4, seed, cursor or Cursor())
    return [numbers(batch) for batch in islice(stream, count)]


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=12)
@given(done=st.integers(0, 17), seed=st.integers(0, 5))
def test_a_walk_goes_on_from_any_place(name, done, seed):
    whole = walk(as_data(SOURCES[name](), "train"), 20, seed)
    data, cursor = as_data(SOURCES[name](), "train"), Cursor()
    assert walk(data, done, seed, cursor) == whole[:done]
    with random_state_kept(seed + done):  # whatever the caller has drawn in between
        again = as_data(SOURCES[name](), "train")
        assert walk(again, 20 - done, seed, Cursor(cursor.epoch, cursor.batch)) == whole[done:]
        # The very same loader, used by somebody else in between, goes on alike.
        walk(data, 3, seed + 1)
        assert walk(data, 20 - done, seed, Cursor(cursor.epoch, cursor.batch)) == whole[done:]


@pytest.mark.parametrize("name", SOURCES)
def test_two_walks_at_once_do_not_mix(name):
    data = as_data(SOURCES[name](), "train")
    whole = walk(as_data(SOURCES[name](), "train"), 12)
    one, two = (data.stream(4, 0, Cursor()) for _ in range(2))
    if data.generators():
        pytest.skip("their states are swapped by whoever holds the walks")
    mixed = [(numbers(next(one)), numbers(next(two))) for _ in range(12)]
    assert mixed == [(b, b) for b in whole]


@pytest.mark.parametrize("name", SHUFFLED)
def test_the_order_changes_with_the_epoch_and_the_seed(name):
    if name in ("set_epoch", "batch sampler set_epoch"):
        epochs = walk(as_data(SOURCES[name](), "train"), 10)
        assert epochs[0] != epochs[5]
        return
    data = as_data(SOURCES[name](), "train")
    assert walk(data, 4, seed=0) != walk(data, 4, seed=1)
    first = walk(data, 1, 0, Cursor(0, 0)), walk(data, 1, 0, Cursor(1, 0))
    assert first[0] != first[1]


@given(
    count=st.integers(1, 60), size=st.integers(1, 20), epoch=st.integers(0, 4), seed=st.integers()
)
def test_an_epoch_holds_each_sample_at_most_once(count, size, epoch, seed):
    size = min(size, count)
    data = as_data(torch.arange(count), "train")
    cursor = Cursor(epoch, 0)
    batches = [b[0] for b in islice(data.stream(size, seed, cursor), data.steps_per_epoch(size))]
    assert all(len(b) == size for b in batches)
    seen = torch.cat(batches).tolist()
    assert len(seen) == len(set(seen)) == count - count % size
    assert (cursor.epoch, cursor.batch) == (epoch, count // size)


@pytest.mark.parametrize("name", SOURCES)
def test_a_sweep_is_every_sample_once_in_one_order(name):
    if name in ("replacement", "weighted", "lazy sampler"):
        pytest.skip("draws with replacement")
    data = as_data(SOURCES[name](), "valid")
    swept = [(numbers(batch), count) for batch, count in data.sweep(4)]
    assert [(numbers(batch), count) for batch, count in data.sweep(4)] == swept
    labels = sorted(int(v) for values, n in swept for v in values[n:])
    dropped = {"loader drop_last": 3, "batch sampler set_epoch": 3}.get(name, 0)
    assert sum(n for _, n in swept) == len(labels) == COUNT - dropped
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", LOADERS)
def test_the_users_loader_is_left_as_it_was(name):
    loader = SOURCES[name]()
    data = as_data(loader, "train")
    samplers = (loader.sampler, loader.batch_sampler)
    before = [getattr(s, "epoch", None) for s in samplers]
    states = [g.get_state() for g in data.generators()]
    with random_state_kept(5):
        expected = (random.random(), np.random.rand(), float(torch.rand(())))  # noqa: NPY002
    with random_state_kept(5):
        with data.untouched():
            walk(data, 9, seed=1)
            list(data.sweep(4))
        assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected  # noqa: NPY002
    assert [getattr(s, "epoch", None) for s in samplers] == before
    after = [g.get_state() for g in data.generators()]
    assert all(torch.equal(a, b) for a, b in zip(states, after, strict=True))


def test_generators_are_found_where_they_hide():
    assert len(as_data(SOURCES["loader own generator"](), "train").generators()) == 1
    assert len(as_data(SOURCES["sampler own generator"](), "train").generators()) == 1
    assert as_data(SOURCES["tensors"](), "train").generators() == []


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("name", ["augmented", "loader shuffled"])
def test_worker_processes_change_nothing_of_this(name, persistent):
    dataset = Noisy() if name == "augmented" else Plain()

    def data() -> Data:
        loader = DataLoader(dataset, 4, shuffle=True, num_workers=2, persistent_workers=persistent)
        return as_data(loader, "train")

    one = data()
    whole = walk(one, 14)
    assert walk(data(), 14) == whole
    assert walk(data(), 5, 0, Cursor(1, 3)) == whole[9:]
    streams = [one.stream(4, 0, Cursor()) for _ in range(2)]
    assert [[numbers(next(s)) for s in streams] for _ in range(8)] == [[b, b] for b in whole[:8]]


# ---- kinds and shapes --------------------------------------------------------------------


def test_arrays_become_single_precision_and_whole_numbers_stay():
    data = as_data((np.zeros((4, 2)), np.arange(4)), "train")
    x, y = data.take(torch.tensor([0, 3]))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_a_mapping_keeps_its_names():
    data = as_data({"ids": Y, "mask": np.ones(COUNT, dtype=bool)}, "train")
    batch = next(data.stream(4, 0, Cursor()))
    assert list(batch) == ["ids", "mask"]
    assert batch["mask"].dtype == torch.bool


@given(count=st.integers(2, 200), share=st.floats(0.05, 0.95))
def test_a_split_is_a_partition(count, share):
    data = as_data(torch.arange(count), "train")
    if not 0 < round(count * share) < count:
        with pytest.raises(BadValueError, match=r"samples leaves one part empty"):
            data.split(share)
        return
    rest, held = data.split(share)
    assert held.samples == round(count * share)
    both = torch.cat([rest.tensors[0], held.tensors[0]]).tolist()
    assert sorted(both) == list(range(count))
    again = data.split(share)[1]
    assert torch.equal(again.tensors[0], held.tensors[0])


def test_a_split_dataset_is_a_partition():
    rest, held = as_data(Plain(), "train").split(0.2)
    taken = [int(v) for d in (rest, held) for b, n in d.sweep(5) for v in b[1]]
    assert sorted(taken) == list(range(COUNT))


def test_batch_sizes():
    tensors, loader = as_data((X, Y), "train"), as_data(SOURCES["loader"](), "train")
    assert tensors.check(None) == COUNT
    assert as_data(torch.zeros(500), "train").check(None) == 64
    assert tensors.check(COUNT) == COUNT
    with pytest.raises(BadValueError, match=r"batch_size=24 is larger than the 23 .*<= 23"):
        tensors.check(24)
    assert loader.check(None) == loader.check(4) == 4
    with pytest.raises(BadValueError, match="batch_size=8, but the DataLoader makes batches of 4"):
        loader.check(8)
    assert as_data(SOURCES["batch sampler"](), "train").check(None) == 4
    assert loader.steps_per_epoch(4) == 6
    assert as_data(SOURCES["stream without length"](), "train").steps_per_epoch(4) is None


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (torch.zeros(0, 3), TaskError, "train is empty: it has 0 samples"),
        (np.zeros((0, 3)), TaskError, "train is empty"),
        ((), TaskError, "train is empty"),
        ([], TaskError, "train is empty"),
        (DataLoader([], batch_size=1), TaskError, "train is empty"),
        ((torch.zeros(3), torch.zeros(4)), TaskError, r"first axes differ \(shapes \(3,\), \(4,\)"),
        ({"x": X, "y": Y[:-1]}, TaskError, "first axes differ"),
        (torch.tensor(3.0), TaskError, "first axes differ"),
        ("digits", BadTypeError, "train is a str: pass tensors, a Dataset, or a DataLoader"),
        (3, BadTypeError, "train is an int: pass tensors"),
        (None, BadTypeError, "train is a NoneType: pass tensors"),
        ([1, 2, 3], BadTypeError, "train is a list of int, int, int: pass tensors"),
        ([(X, Y)], BadTypeError, "train is a list of tuple: pass tensors"),
        ([(X[0], Y[0]), (X[1], Y[1])], BadTypeError, "train is a list of tuple, tuple: pass"),
        ([{"x": X}, {"x": X}], BadTypeError, "train is a list of dict, dict: pass tensors"),
        ({"x": [1, 2]}, BadTypeError, "expected a tensor or array, got list"),
        (np.array(["a", "b"]), BadTypeError, "expected an array of numbers, got one of dtype <U1"),
        (np.array([{}, None]), BadTypeError, "expected an array of numbers, got one of dtype obj"),
    ],
)
def test_data_that_cannot_be_used(source, error, message):
    with pytest.raises(error, match=message):
        as_data(source, "train")


def test_a_loader_without_batches_is_named():
    data = as_data(DataLoader(Nothing(), batch_size=2), "train")
    with pytest.raises(TaskError, match="the DataLoader returned no batch"):
        next(data.stream(2, 0, Cursor()))


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(d, batch_size=4)])
def test_a_dataset_that_fails_is_named(wrap):
    class Broken(Plain):
        def __getitem__(self, index: int) -> Any:
            raise KeyError(f"image {index} is gone")

    data = as_data(wrap(Broken()), "train")
    with pytest.raises(TaskError, match=r"failed: KeyError: .*image .* is gone"):
        next(data.stream(4, 0, Cursor()))


def test_data_is_its_own_data():
    data = as_data(SOURCES["loader"](), "train")
    assert isinstance(data, LoaderData)
    assert as_data(data, "train") is data
    assert as_data((X, Y.float()), "train").targets() == COUNT
    assert as_data((X, torch.zeros(COUNT, 7, dtype=torch.long)), "train").targets() == 7 * COUNT


class OnGpu(Tensor):
    """A tensor that says it is on a GPU."""

    device = torch.device("cuda", 0)

    def to(self, *_: Any) -> Tensor:
        return self


@pytest.mark.parametrize("source", [lambda x: (x,), lambda x: {"x": x}, lambda x: ((x, x), x)])
def test_data_on_a_gpu_stays_the_same_object_there(source):
    """A device without a number is that of the tensors too; runs are told apart by their data."""
    data = as_data(source(torch.zeros(4, 2).as_subclass(OnGpu)), "train")
    assert data.to(torch.device("cuda")) is data
