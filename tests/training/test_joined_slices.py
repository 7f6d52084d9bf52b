"""Slices evaluated together give what each gives alone, or are evaluated alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, IterableDataset

from etude import Task
from etude.tasks.sources.data import as_data
from etude.tasks.sources.shards import sharded_sweep
from etude.training.evaluation.evaluate import evaluate
from etude.training.evaluation.joined_slices import JoinedSlices

CALLS: dict[int, list[int]] = {}
"""The samples of each forward pass, by the key of the model: where no evaluation looks."""


class Counted(nn.Module):
    """Counts the samples of each forward pass."""

    def __init__(self, calls: list[int], inner: nn.Module) -> None:
        super().__init__()
        self.key, self.inner = id(calls), inner
        CALLS[self.key] = calls

    def forward(self, *inputs):
        CALLS[self.key].append(len(inputs[0]))
        return self.inner(*inputs)


class Carries(nn.Module):
    """Adds the mean of the batch before, kept as an attribute or as a buffer."""

    def __init__(self, buffer: bool) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("kept", torch.zeros(()))
        else:
            self.kept = torch.zeros(())

    def forward(self, x):
        before, self.kept = self.kept, x.mean()
        return x[:, :1] + before


class Noisy(nn.Module):
    def forward(self, x):
        return x[:, :1] + torch.randn(len(x), 1)


class OfTheBatch(nn.Module):
    """Compares the samples of a batch with one another."""

    def forward(self, x):
        return x[:, :1] - x[:, :1].mean()


class TimeFirst(nn.Module):
    """Returns (time, samples)."""

    def forward(self, x):
        return x.T


def torch_data(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(samples)
    return torch.randn(samples, 3), torch.randn(samples, 1)


def both(task: Task, model: nn.Module, batch_size: int = 128):
    """Return the evaluation, and that of every slice alone."""

    def alone(batches):
        return (task.weighed(model, batch) for batch in batches)

    return (
        evaluate(task, model, batch_size=batch_size),
        evaluate(task, model, batch_size=batch_size, answers=alone),
    )


@given(st.integers(1, 300), st.integers(1, 130), st.booleans())
def test_joined_slices_give_what_each_gives_alone(samples, batch_size, classes):
    x, y = torch_data(samples)
    target = (y[:, 0] > 0).long() if classes else y
    calls: list[int] = []
    model = Counted(calls, nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1 + classes)))
    task = Task(
        model, (x, target), (x, target),
        loss=cross_entropy if classes else mse_loss, metric="accuracy" if classes else "mae",
    )  # fmt: skip
    joined, alone = both(task, model, batch_size)
    assert joined.loss == pytest.approx(alone.loss, rel=1e-5)
    assert joined.metric == pytest.approx(alone.metric, rel=1e-5)
    assert joined.parts == pytest.approx(alone.parts, rel=1e-4, abs=1e-6)
    assert joined.metric_parts == pytest.approx(alone.metric_parts, rel=1e-4, abs=1e-6)
    passes = calls[: -len(alone.parts)]
    assert max(passes) <= batch_size
    rows = len(range(0, samples, 16)) if samples >= 16 else 1
    if batch_size >= 2 * rows and len(alone.parts) > 2:
        assert len(passes) < len(alone.parts)


def same_as_slice_by_slice(make, loss=None, data=None) -> None:
    """Assert that a new model's evaluation has the bits of one slice by slice."""
    x, y = data or torch_data(100)
    make_loss = loss or (lambda: lambda o, t: (o[:, :1] - t).square().mean())
    found = []
    for way in (evaluated, alone_of):
        model = make()
        found.append(way(Task(model, (x, y), (x, y), loss=make_loss()), model))
    assert found[0] == found[1]
    assert len(set(found[0].parts)) > 1


def evaluated(task: Task, model: nn.Module):
    return evaluate(task, model, batch_size=128)


def alone_of(task: Task, model: nn.Module):
    def alone(batches):
        return (task.weighed(model, batch) for batch in batches)

    return evaluate(task, model, batch_size=128, answers=alone)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Carries(False),
        lambda: Carries(True),
        Noisy,
        OfTheBatch,
        lambda: nn.BatchNorm1d(3, track_running_stats=False),
    ],
    ids=["attribute", "buffer", "noise", "batch", "statistics"],
)
def test_a_model_that_sees_more_than_the_sample_is_evaluated_slice_by_slice(make):
    same_as_slice_by_slice(make)
    sizes: list[int] = []
    x, y = torch_data(100)
    model = Counted(sizes, make())
    task = Task(model, (x, y), (x, y), loss=lambda o, t: (o[:, :1] - t).square().mean())
    evaluate(task, model, batch_size=128)
    assert set(sizes[:2]) <= {7, 100}
    assert sizes.count(7) >= 14


class SampleAxisAsTime(nn.Module):
    """An LSTM without batch_first: each sample depends on those before it in the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(3, 4)

    def forward(self, x):
        return self.lstm(x[:, None])[0][:, 0]


class Backwards(SampleAxisAsTime):
    """Each sample depends on those after it."""

    def forward(self, x):
        return super().forward(x.flip(0)).flip(0)


class Edges(nn.Module):
    """Adds to each node the node that its edge comes from; the graph is a ring."""

    def forward(self, x, edges):
        return x[:, :1] + x[edges[:, 0], :1]


@pytest.mark.parametrize("make", [SampleAxisAsTime, Backwards])
def test_samples_that_depend_on_those_before_or_after_them_are_not_joined(make):
    same_as_slice_by_slice(make)


def test_graphs_with_as_many_edges_as_nodes_are_not_joined():
    x, y = torch_data(60)
    ring = torch.tensor([[i, (i + 1) % 4] for i in range(4)] * 15)
    rows = list(zip(x.split(4), ring.split(4), y.split(4), strict=True))
    task = Task(Edges(), (x, ring, y), DataLoader(rows, batch_size=None), loss=mse_loss)
    assert evaluate(task, Edges(), batch_size=128) == alone_of(task, Edges())


class Holds(nn.Module):
    """Adds what it holds, and changes that in every forward pass."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.items, self.named, self.own = [0.0], {"sum": 0.0}, SimpleNamespace(sum=0.0)
        self.plain, self.array = torch.zeros(()), np.zeros(1)
        self.weight = nn.Parameter(torch.zeros(()))
        self.nested = {"deep": [(1, [0.0])]}

    def forward(self, x):
        now = float(x.mean())
        match self.kind:
            case "list":
                before = self.items[-1]
                self.items.append(now)
            case "dict":
                before = self.named["sum"]
                self.named["sum"] = before + now
            case "object":
                before = self.own.sum
                self.own.sum = before + now
            case "tensor":
                before = float(self.plain)
                self.plain += now
            case "array":
                before = float(self.array[0])
                self.array += now
            case "parameter":
                before = float(self.weight)
                self.weight.data.copy_(self.weight + now)
                self.weight.add_(0)
            case "nested":
                before = self.nested["deep"][0][1].pop()
                self.nested["deep"][0][1].append(before + now)
        return x[:, :1] + before


@pytest.mark.parametrize(
    "kind", ["list", "dict", "object", "tensor", "array", "parameter", "nested"]
)
def test_a_model_whose_state_changes_anywhere_makes_no_pass_more(kind):
    same_as_slice_by_slice(lambda: Holds(kind))


def test_a_hook_that_keeps_a_state_makes_no_pass_more():
    def make():
        kept = [0.0]
        layer = nn.Linear(3, 1)
        nn.init.constant_(layer.weight, 0.5)
        nn.init.zeros_(layer.bias)

        def add(_, inputs, output):
            kept.append(float(inputs[0].mean()))
            return output + kept[-2]

        layer.register_forward_hook(add)
        return layer

    same_as_slice_by_slice(make)


class Smoothed(nn.Module):
    """Divides by a running mean of the loss, which every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, output, target):
        loss = mse_loss(output[:, :1], target)
        self.mean.mul_(0.9).add_(0.1 * loss.detach())
        return loss / self.mean


def counting():
    calls = 0

    def loss(output, target):
        nonlocal calls
        calls += 1
        return calls * mse_loss(output[:, :1], target)

    return loss


def drawing():
    return lambda output, target: mse_loss(output[:, :1], target) + torch.rand(())


@pytest.mark.parametrize("loss", [Smoothed, counting, drawing])
def test_a_loss_with_a_state_is_called_once_for_each_slice(loss):
    same_as_slice_by_slice(nn.Identity, loss)


def test_values_that_are_written_anew_and_the_same_do_not_prevent_joining():
    class Notes(nn.Module):
        def forward(self, x):
            self.size, self.shape, self.name = 1000 + x.shape[1], x.shape[1:], f"{x.shape[1]}"
            return x[:, :1]

    x, y = torch_data(100)
    sizes: list[int] = []
    model = Counted(sizes, Notes())
    task = Task(model, (x, y), (x, y), loss=mse_loss)
    evaluate(task, model, batch_size=128)
    assert 100 not in sizes  # it has the attributes only from the first pass on
    evaluate(task, model, batch_size=128)
    assert sizes[-1] == 100


# ---- sources of the slices -----------------------------------------------------------------------


class Reused(IterableDataset):
    """Writes every batch into the same memory, as some fast loaders do."""

    def __init__(self, data, *, wrap) -> None:
        self.data, self.wrap = data, wrap

    def __iter__(self):
        memory = [torch.empty_like(part[:4]) for part in self.data]
        for rows in torch.arange(len(self.data[0])).split(4):
            for place, part in zip(memory, self.data, strict=True):
                place.copy_(part[rows])
            yield self.wrap(*memory)


@dataclass
class Pair:
    """A batch that only its own step understands."""

    x: torch.Tensor
    y: torch.Tensor


def test_a_source_that_writes_every_batch_into_the_same_memory_is_read_right():
    x, y = torch_data(64)
    model = nn.Linear(3, 1)
    expected = evaluate(Task(model, (x, y), (x, y), loss=mse_loss), model, batch_size=4)
    reused = DataLoader(Reused((x, y), wrap=lambda a, b: (a, b)), batch_size=None)
    found = evaluate(Task(model, (x, y), reused, loss=mse_loss), model, batch_size=64)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.parts == pytest.approx(expected.parts, rel=1e-6)


def test_a_batch_of_a_class_of_its_own_is_used_before_the_next_is_read():
    x, y = torch_data(64)
    source = as_data(DataLoader(Reused((x, y), wrap=Pair), batch_size=None), "valid")
    groups = sharded_sweep(source, 4, 64, rank=0, size=1)
    seen = [one[1].x.clone() for group in groups for one in group]
    assert torch.equal(torch.cat(seen), x)


# ---- outputs that cannot be divided --------------------------------------------------------------


class Long(nn.Module):
    """Returns (time, samples), and there are as many steps as samples in a group."""

    def forward(self, x):
        return x.T


class Ragged(nn.Module):
    def forward(self, x):
        return torch.nested.nested_tensor([row[: 1 + i % 3] for i, row in enumerate(x)])


class Sparse(nn.Module):
    def forward(self, x):
        return x.to_sparse()


class Told(nn.Module):
    """Puts what the loss reads beside its output."""

    def forward(self, x):
        output = x[:, :1].clone()
        output.scale = 2.0
        return output


class PerSample(nn.Module):
    def forward(self, x):
        return [row[None].expand(len(x), 32) for row in x]


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (Long, lambda o, t: (o.T - t).square().mean()),
        (Ragged, lambda o, t: torch.stack([row.mean() for row in o.unbind()]).square().mean()),
        (Sparse, lambda o, t: (o.to_dense() - t).square().mean()),
        (Told, lambda o, t: o.scale * (o - t).square().mean()),
        (PerSample, lambda o, t: torch.stack([row[0] for row in o]).square().mean() * len(t)),
    ],
    ids=["axis", "ragged", "sparse", "attribute", "list"],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_output_that_cannot_be_divided_is_computed_slice_by_slice(make, loss):
    torch.manual_seed(0)
    x = torch.randn(32, 32)
    same_as_slice_by_slice(make, lambda: loss, (x, x[:, 1:2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_weak_dependence_on_the_batch_is_no_rounding(dtype):
    share = torch.finfo(dtype).eps ** 0.58

    class Weak(nn.Module):
        def forward(self, x):
            return x[:, :1] * (1 + share * (len(x) > 50))

    x, y = (values.to(dtype) for values in torch_data(100))
    same_as_slice_by_slice(Weak, data=(x, y))


@pytest.mark.parametrize(
    "output", [torch.int64, torch.bool, torch.complex64, torch.float16], ids=str
)
def test_outputs_of_any_type_are_divided(output):
    class Typed(nn.Module):
        def forward(self, x):
            return (8 * x[:, :1]).abs().to(output)

    x, y = torch_data(100)
    sizes: list[int] = []
    model = Counted(sizes, Typed())
    task = Task(model, (x, y), (x, y), loss=lambda o, t: (o.to(torch.complex64).abs() ** 2).mean())
    joined = evaluate(task, model, batch_size=128)
    assert sizes == [7, 100]
    assert joined == alone_of(task, model)


def test_outputs_without_an_axis_of_samples_are_computed_slice_by_slice():
    x, _ = torch_data(40)
    task = Task(TimeFirst(), (x, x), (x, x), loss=lambda o, t: (o.T - t).square().mean() + 1)
    joined, alone = both(task, TimeFirst())
    assert joined == alone
    assert joined.loss == 1


def test_a_loss_that_reads_what_the_model_left_elsewhere_is_computed_slice_by_slice():
    seen: dict[str, torch.Tensor] = {}
    layer = nn.Linear(3, 1)
    layer.register_forward_hook(lambda _, inputs, output: seen.update(hidden=output))
    x, y = torch_data(64)
    task = Task(
        layer, (x, y), (x, y), loss=lambda o, t: mse_loss(o, t) + seen["hidden"].abs().mean()
    )
    joined, alone = both(task, layer)
    assert joined == alone


def test_a_nested_output_is_divided_leaf_by_leaf():
    class Two(nn.Module):
        def forward(self, x):
            return {"a": x[:, 0], "b": (x[:, 1:], x.sum(1))}

    x, y = torch_data(50)
    given = CALLS[0] = []

    def loss(output, target):
        CALLS[0].append(len(target))
        assert len(output["a"]) == len(output["b"][0]) == len(output["b"][1]) == len(target)
        return (output["b"][1] - target[:, 0]).square().mean() + output["a"].mean()

    joined, alone = both(Task(Two(), (x, y), (x, y), loss=loss), Two())
    assert joined.parts == pytest.approx(alone.parts, rel=1e-5)
    # The first slice's loss is computed from both outputs.
    assert sum(given) == 2 * 50 + 4


def test_a_slice_that_fails_is_named_alone():
    class Fails(nn.Module):
        def forward(self, x):
            if (x > 2.5).any():
                raise ValueError("a value beyond 2.5")
            return x[:, :1]

    x, y = torch_data(64)
    x = x.clamp(-2, 2)
    x[40, 0] = 3.0
    task = Task(Fails(), (x, y), (x, y), loss=mse_loss)
    slices = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 64, 4)]
    found = JoinedSlices(task, Fails(), nullcontext).answers(slices)
    assert len([next(found) for _ in range(10)]) == 10
    with pytest.raises(Exception, match=r"\(4, 3\).*a value beyond 2.5"):
        next(found)
