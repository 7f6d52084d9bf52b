"""The weight of a loss: what its mean was taken over, whatever form the loss has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from etude import Task
from etude.errors import TaskError
from etude.tasks.loss.weighted import WeightedLoss, weighed
from etude.training.evaluation.evaluate import together
from etude.training.gradient.accumulation import shares

CLASSES = 4
WEIGHTS = torch.tensor([1.0, 20.0, 0.5, 3.0])
Loss = Callable[[Tensor, Tensor], Any]


def flat(o: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return o.flatten(0, 1), t.flatten()


def each(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(*flat(o, t), reduction="none")


def mask(t: Tensor) -> Tensor:
    return (t.flatten() != -100).float()


def pair(o: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return each(o, t).sum(), mask(t).sum()


def picked(o: Tensor, t: Tensor) -> Tensor:
    o, t = flat(o, t)
    return F.cross_entropy(o[t != -100], t[t != -100])


def step_by_step(o: Tensor, t: Tensor) -> Tensor:
    total: Any = 0.0
    for place in range(t.shape[1]):
        total = total + F.cross_entropy(o[:, place], t[:, place], reduction="sum")
    return total / mask(t).sum()


def in_place(o: Tensor, t: Tensor) -> Tensor:
    total, count = torch.zeros(()), torch.tensor(0.0)
    for place in range(t.shape[1]):
        total += F.cross_entropy(o[:, place], t[:, place], reduction="sum")
        count += (t[:, place] != -100).sum()
    count.clamp_(min=1)
    total /= count
    total *= 2
    return total


def shares_of_places(o: Tensor, t: Tensor) -> Tensor:
    share = mask(t)
    share = share / share.sum().clamp(min=1)
    return (each(o, t) * share).sum()


def mean_weight_of_one(o: Tensor, t: Tensor) -> Tensor:
    weights = mask(t).view_as(t)
    weights = weights / weights.mean().clamp_min(1e-9)
    return (each(o, t).view_as(t) * weights).mean()


def mean_of_numbers(o: Tensor, t: Tensor) -> Tensor:
    return torch.where(t != -100, o.square().sum(-1), torch.nan).nanmean()


def added_in_place(o: Tensor, t: Tensor) -> Tensor:
    loss = each(o, t).sum() / mask(t).sum()
    loss += o.square().mean()
    return loss


LOSSES: dict[str, Loss] = {
    "cross-entropy": lambda o, t: F.cross_entropy(*flat(o, t)),
    "of a module": lambda o, t: nn.CrossEntropyLoss()(*flat(o, t)),
    "class weights": lambda o, t: nn.CrossEntropyLoss(weight=WEIGHTS)(*flat(o, t)),
    "another ignored": lambda o, t: F.cross_entropy(*flat(o, t.clamp_min(0)), ignore_index=0),
    "smoothed": lambda o, t: F.cross_entropy(*flat(o, t), label_smoothing=0.1),
    "smoothed, weights": lambda o, t: F.cross_entropy(*flat(o, t), WEIGHTS, label_smoothing=0.1),
    "channels first": lambda o, t: F.cross_entropy(o.transpose(1, 2), t),
    "likelihood": lambda o, t: nn.NLLLoss()(flat(o, t)[0].log_softmax(1), t.flatten()),
    "scaled": lambda o, t: F.cross_entropy(*flat(o, t)) * 3 / 7,
    "two of one weight": lambda o, t: F.cross_entropy(*flat(o, t)) + picked(2 * o, t),
    "sum over count": lambda o, t: F.cross_entropy(*flat(o, t), reduction="sum") / mask(t).sum(),
    "sum over number": lambda o, t: each(o, t).sum() / int(mask(t).sum()),
    "masked": lambda o, t: (each(o, t) * mask(t)).sum() / mask(t).sum().clamp_min(1),
    "masked, epsilon": lambda o, t: (each(o, t) * mask(t)).sum() / (mask(t).sum() + 1e-8),
    "ratio of means": lambda o, t: (each(o, t) * mask(t)).mean() / mask(t).mean(),
    "picked": picked,
    "picked elements": lambda o, t: o.square()[t != -100].mean(),
    "weighted squares": lambda o, t: F.mse_loss(
        o, torch.zeros_like(o), weight=(t != -100).float()[:, :, None].expand_as(o)
    ),
    "likelihood of classes": lambda o, t: F.cross_entropy(
        o.flatten(0, 1), o.flatten(0, 1).softmax(1)
    ),
    "two logits, weights": lambda o, t: F.binary_cross_entropy_with_logits(
        o, (o > 0).float(), weight=WEIGHTS, pos_weight=WEIGHTS
    ),
    "divergence": lambda o, t: F.kl_div(
        o.flatten(0, 1).log_softmax(1), o.flatten(0, 1).softmax(1) ** 2, reduction="batchmean"
    ),
    "mean": lambda o, t: o.square().mean(),
    "step by step": step_by_step,
    "in place": in_place,
    "stack of sums": lambda o, t: (
        torch.stack([each(o[i : i + 1], t[i : i + 1]).sum() for i in range(len(o))]).sum()
        / mask(t).sum()
    ),
    "sum of sums": lambda o, t: (
        sum(each(o[i : i + 1], t[i : i + 1]).sum() for i in range(len(o))) / mask(t).sum()
    ),
    "product": lambda o, t: each(o, t) @ mask(t) / mask(t).sum(),
    "einsum": lambda o, t: torch.einsum("i,i->", each(o, t), mask(t)) / mask(t).sum(),
    "times the inverse": lambda o, t: each(o, t).sum() * (1 / mask(t).sum()),
    "divided, then added": lambda o, t: (each(o, t) / mask(t).sum()).sum(),
    "shares": shares_of_places,
    "weights of mean 1": mean_weight_of_one,
    "mean of numbers": mean_of_numbers,
    "pair": pair,
}
"""Losses of (N, L, classes) scores and (N, L) labels, each a mean over something."""


UNKNOWN: dict[str, Loss] = {
    "two weights": lambda o, t: F.cross_entropy(*flat(o, t)) + o.square().mean(),
    "no mean": lambda o, t: o.square().sum(),
    "stacked": lambda o, t: torch.stack([F.cross_entropy(*flat(o, t)), o.mean()]).mean(),
    "mean of sums": lambda o, t: torch.stack([each(o, t).sum(), o.sum()]).mean(),
    "added in place": added_in_place,
    "a sum of two shares": lambda o, t: (
        each(o, t) / mask(t).sum() * (mask(t) / mask(t).sum())
    ).sum(),
    "a mean of shares": lambda o, t: (each(o, t) / mask(t).sum()).mean(),
    "a root": lambda o, t: o.square().mean().sqrt(),
}


def padded(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    o, t = (
        torch.randn(rows, 5, CLASSES, generator=g),
        torch.randint(CLASSES, (rows, 5), generator=g),
    )
    lengths = torch.randint(0, 6, (rows, 1), generator=g)
    return o, torch.where(torch.arange(5) < lengths, t, -100)


def found(loss: Loss, o: Tensor, t: Tensor) -> WeightedLoss:
    task = Task(nn.Linear(1, 1), (o, t), valid=(o, t), loss=loss)
    return task.compare(o, t)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15)
@given(rows=st.integers(2, 12), seed=st.integers(0, 999), size=st.integers(1, 5))
def test_slices_put_together_are_the_whole(name, rows, seed, size):
    """Σ w L / Σ w over any slices is the loss of all at once; a slice without targets is no NaN."""
    o, t = padded(rows, seed)
    t[0, 0] = 1
    whole = found(LOSSES[name], o, t)
    parts = [
        found(LOSSES[name], *piece) for piece in zip(o.split(size), t.split(size), strict=True)
    ]
    loss, contributions, weight = together(
        [p.read() for p in parts], [len(p) for p in o.split(size)]
    )
    assert loss == pytest.approx(float(whole.mean), rel=1e-5)
    assert whole.weight is not None
    assert weight == pytest.approx(float(whole.weight), rel=1e-5)
    if rows % size == 0:
        assert sum(contributions) / len(parts) == pytest.approx(loss, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", [*LOSSES, *UNKNOWN])
def test_looking_for_the_weight_changes_no_bit_of_a_loss(name):
    o, t = padded(6, 3)
    loss = {**LOSSES, **UNKNOWN}[name]
    plain = loss(o, t)
    seen, _, _ = weighed(lambda: loss(o, t))
    assert torch.equal(
        torch.as_tensor(plain[0] if isinstance(plain, tuple) else plain),
        torch.as_tensor(seen[0] if isinstance(seen, tuple) else seen),
    )


@pytest.mark.parametrize(
    "name", ["cross-entropy", "masked", "sum over count", "picked", "pair", "in place", "shares"]
)
def test_a_batch_without_a_target_weighs_nothing_and_has_no_gradient(name):
    o, t = padded(3, 0)
    o.requires_grad_()
    loss = found(LOSSES[name], o, torch.full_like(t, -100))
    assert float(loss.weight) == 0
    assert loss.times(1.0).item() == 0
    (gradient,) = torch.autograd.grad(loss.times(1.0), o)
    assert not gradient.any()


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_no_mean_over_one_weight_has_none(name):
    assert found(UNKNOWN[name], *padded(5, 1)).weight is None


def test_ctc_divides_by_each_targets_length_and_is_a_mean_over_the_batch():
    g = torch.Generator().manual_seed(0)
    scores, targets = (
        torch.randn(12, 6, 5, generator=g).log_softmax(-1),
        torch.randint(1, 5, (6, 4)),
    )
    lengths = torch.tensor([1, 4, 2, 3, 4, 1])

    def ctc(low: int, high: int) -> tuple[Any, Any]:
        steps = torch.full((high - low,), 12)
        part = scores[:, low:high], targets[low:high], steps, lengths[low:high]
        return weighed(lambda: F.ctc_loss(*part))[:2]

    whole, weight = ctc(0, 6)
    parts = [ctc(0, 1), ctc(1, 6)]
    assert weight == 6
    assert float(sum(loss * w for loss, w in parts)) / 6 == pytest.approx(float(whole))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6).filter(any))
def test_shares_add_up_to_one(weights):
    losses = [WeightedLoss(torch.tensor(1.0), weight) for weight in weights]
    assert float(sum(shares(losses))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda o, t: (1.0, 2), r"pair, which is read as \(sum, weight\): the sum is a float"),
        (lambda o, t: (o.sum(), "2"), "the weight is a str: give a number"),
        (lambda o, t: (o.sum(), -1), "the weight is -1.0: give a finite number of at least 0"),
        (lambda o, t: (o.sum(), t), r"the weight is a tensor of shape \(3, 5\): give two scalars"),
        (lambda o, t: (o.sum(0), 2), r"the sum is a tensor of shape"),
    ],
)
def test_a_pair_that_is_no_sum_with_its_weight_is_refused(loss, match):
    with pytest.raises(TaskError, match=match):
        found(loss, *padded(3, 0))


def test_the_weights_of_classes_in_a_partial_are_moved_and_the_users_own_are_not():
    weight = torch.tensor([0.3, 0.7])
    samples = DataLoader([(torch.zeros(3), 0), (torch.ones(3), 1)])
    own = Task(
        lambda: nn.Linear(3, 2),
        samples,
        valid=samples,
        loss=partial(nn.functional.cross_entropy, weight=weight),
    )
    there = own.on(torch.device("meta"))
    assert there.loss.keywords["weight"].is_meta
    assert own.loss.keywords["weight"] is weight
    assert there.on(torch.device("meta")) is there
    assert own.on(torch.device("cpu")) is own
