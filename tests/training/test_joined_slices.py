"""Slices evaluated together give what each gives alone, or are evaluated alone."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Task
from etude.training.evaluation.evaluate import evaluate
from etude.training.evaluation.joined_slices import JoinedSlices


class Counted(nn.Module):
    """Counts the samples of each forward pass, in a list that is no attribute of its own."""

    def __init__(self, calls: list[int], inner: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "calls", calls)
        self.inner = inner

    def forward(self, *inputs):
        self.calls.append(len(inputs[0]))
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


@pytest.mark.parametrize(
    "model",
    [
        Carries(False),
        Carries(True),
        Noisy(),
        OfTheBatch(),
        nn.BatchNorm1d(3, track_running_stats=False),
    ],
    ids=["attribute", "buffer", "noise", "batch", "statistics"],
)
def test_a_model_that_sees_more_than_the_sample_is_evaluated_slice_by_slice(model):
    x, y = torch_data(100)
    sizes: list[int] = []
    counted = Counted(sizes, model)
    task = Task(counted, (x, y), (x, y), loss=lambda o, t: (o[:, :1] - t).square().mean())
    first, alone = both(task, counted)
    assert set(sizes[:2]) <= {7, 100}
    assert sizes.count(7) >= 2 * (len(alone.parts) - 1)
    if not isinstance(model, (Noisy, Carries)):  # one pass more draws, and an attribute stays
        assert (first.loss, first.parts) == (alone.loss, alone.parts)


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
    given: list[int] = []

    def loss(output, target):
        given.append(len(target))
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
