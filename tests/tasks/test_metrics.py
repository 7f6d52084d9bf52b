"""Metrics: the same for every batch size, and the same as scikit-learn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as peer
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from etude.errors import BadTypeError, BadValueError, TaskError
from etude.tasks.metrics import METRICS, Metric, as_metric, mean_metric

seeds = st.integers(0, 10_000)
counts = st.integers(2, 60)


def measured(metric: Metric, output: torch.Tensor, target: torch.Tensor, sizes: list[int]) -> float:
    """The metric, with the samples cut into batches of `sizes`."""
    parts = zip(output.split(sizes), target.split(sizes), strict=True)
    collector = metric.collector()
    for piece in parts:
        collector.add(*piece)
    return collector.result()[0]


def cut(count: int, seed: int) -> list[int]:
    """Sizes of batches, each at least one, that add up to `count`."""
    places = np.random.default_rng(seed).integers(0, 2, count - 1).nonzero()[0] + 1
    return np.diff([0, *places, count]).tolist()


def example(name: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    if METRICS[name].maximize and name != "r2":
        return torch.randn(count, 4 if name != "topk" else 7, generator=g), torch.randint(
            4, (count,), generator=g
        )
    if name == "perplexity":
        return torch.randn(count, 3, 5, generator=g), torch.randint(5, (count, 3), generator=g)
    return torch.randn(count, 2, generator=g), torch.randn(count, 2, generator=g)


@pytest.mark.parametrize("name", METRICS)
@given(counts, seeds)
def test_no_metric_depends_on_the_batches(name, count, seed):
    output, target = example(name, count, seed)
    whole = measured(METRICS[name], output, target, [count])
    assert measured(METRICS[name], output, target, cut(count, seed)) == pytest.approx(
        whole, rel=1e-9, abs=1e-12, nan_ok=True
    )


@given(counts, seeds)
def test_a_mean_metric_does_not_depend_on_the_batches(count, seed):
    output, target = example("mse", count, seed)
    metric = mean_metric("bias", lambda o, t: (o - t).mean(), maximize=False)
    expected = float((output.double() - target).mean())
    assert measured(metric, output, target, cut(count, seed)) == pytest.approx(expected, abs=1e-6)


@given(counts, seeds)
def test_accuracy_is_scikit_learns(count, seed):
    output, target = example("accuracy", count, seed)
    ours = measured(METRICS["accuracy"], output, target, [count])
    assert ours == pytest.approx(peer.accuracy_score(target, output.argmax(1)))


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_accuracy_of_one_logit_per_answer(shape):
    g = torch.Generator().manual_seed(0)
    output = torch.randn(shape, generator=g)
    target = torch.randint(2, shape, generator=g)
    expected = float(((output > 0).long() == target).double().mean())
    for labels in (target, target.float()):
        assert measured(METRICS["accuracy"], output, labels, [20, 30]) == pytest.approx(expected)


def test_accuracy_of_one_logit_in_a_column_is_not_that_of_one_class():
    output, target = torch.tensor([[2.0], [-1.0], [3.0]]), torch.tensor([1, 0, 0])
    assert measured(METRICS["accuracy"], output, target, [3]) == pytest.approx(2 / 3)


def test_accuracy_of_sequences_in_both_layouts():
    output, target = example("perplexity", 20, 0)
    expected = float((output.argmax(-1) == target).double().mean())
    assert measured(METRICS["accuracy"], output, target, [20]) == pytest.approx(expected)
    channels_first = output.transpose(1, 2)
    assert measured(METRICS["accuracy"], channels_first, target, [20]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mse", peer.mean_squared_error),
        ("mae", peer.mean_absolute_error),
        ("r2", peer.r2_score),
    ],
)
@pytest.mark.parametrize("offset", [0.0, 1_000.0])
@given(count=counts, seed=seeds)
def test_regression_metrics_are_scikit_learns(name, theirs, offset, count, seed):
    g = torch.Generator().manual_seed(seed)
    target = torch.randn(count, generator=g).double() + offset
    output = target + 0.3 * torch.randn(count, generator=g).double()
    ours = measured(METRICS[name], output, target, [count])
    assert ours == pytest.approx(theirs(target.numpy(), output.numpy()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("sizes", [[40], [1, 7, 32]])
def test_r2_of_several_columns_is_the_mean_over_them(sizes):
    g = torch.Generator().manual_seed(0)
    target = torch.randn(40, 3, generator=g) + torch.tensor([0.0, 50.0, -7.0])
    output = target + torch.randn(40, 3, generator=g) * torch.tensor([0.1, 3.0, 0.5])
    right = peer.r2_score(target.double(), output.double())
    assert measured(METRICS["r2"], output, target, sizes) == pytest.approx(right, rel=1e-6)


def test_r2_of_a_constant_target_is_no_number():
    assert math.isnan(measured(METRICS["r2"], torch.zeros(4), torch.ones(4), [4]))


def test_perplexity_is_the_exponential_of_the_cross_entropy():
    output, target = example("perplexity", 30, 1)
    expected = math.exp(cross_entropy(output.flatten(0, 1).double(), target.flatten()))
    assert measured(METRICS["perplexity"], output, target, [11, 19]) == pytest.approx(expected)
    hopeless = torch.tensor([[1e6, 0.0]]), torch.tensor([1])
    assert measured(METRICS["perplexity"], *hopeless, [1]) == math.inf


def test_answers_to_be_ignored_do_not_count():
    output, target = example("perplexity", 30, 1)
    target[:, 0] = -100  # what cross_entropy ignores by default, as padding is marked
    expected = math.exp(cross_entropy(output.flatten(0, 1).double(), target.flatten()))
    assert measured(METRICS["perplexity"], output, target, [30]) == pytest.approx(expected)
    right = float((output.argmax(-1) == target)[:, 1:].double().mean())
    assert measured(METRICS["accuracy"], output, target, [30]) == pytest.approx(right)


@pytest.mark.parametrize("name", ["mse", "mae", "r2"])
def test_a_silent_broadcast_is_refused(name):
    with pytest.raises(TaskError, match=rf"'{name}' cannot compare .*\(5, 1\).*\(5,\)"):
        METRICS[name].sums(torch.zeros(5, 1), torch.zeros(5))


def test_scores_that_do_not_fit_labels_are_refused():
    with pytest.raises(TaskError, match=r"'accuracy' cannot compare .*\(5, 3\).*\(4,\)"):
        METRICS["accuracy"].sums(torch.zeros(5, 3), torch.zeros(4))


def test_what_a_metric_may_be():
    assert as_metric(None) is None
    assert as_metric("r2") is METRICS["r2"]
    assert as_metric(METRICS["mse"]) is METRICS["mse"]
    own = as_metric(lambda output, target: 3.0)
    assert own is not None
    assert measured(own, torch.zeros(4), torch.zeros(4), [1, 3]) == 3.0
    assert own.maximize is None
    with pytest.raises(BadValueError, match="unknown metric 'acuracy': did you mean 'accuracy'"):
        as_metric("acuracy")
    with pytest.raises(BadTypeError, match=r"metric must be a name, a function .* got int"):
        as_metric(3)
