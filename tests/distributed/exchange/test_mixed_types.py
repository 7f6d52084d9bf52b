"""Gradients of several types, and of 16 bits, in the ways that keep what they do not send."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etude.distributed.exchange.base import ExchangeSetting
from etude.distributed.exchange.powersgd import exchanged_type
from etude.distributed.exchange.table import row_of
from etude.distributed.exchange.topk import picked
from etude.recipe_exchange import compression
from tests.distributed.exchange.common import in_ranks

LOW, HIGH = torch.bfloat16, torch.float32


class Bucket:
    """Some gradients, as DDP gives them to a hook."""

    def __init__(self, index: int, parameters: list[nn.Parameter], gradients: list, last: bool):
        self._index, self._parameters, self._last = index, parameters, last
        self._flat = torch.cat([g.flatten() for g in gradients])

    def index(self) -> int:
        return self._index

    def is_last(self) -> bool:
        return self._last

    def buffer(self) -> torch.Tensor:
        return self._flat

    def gradients(self) -> list[torch.Tensor]:
        sizes = [p.numel() for p in self._parameters]
        parts = torch.split(self._flat, sizes)
        return [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]

    def parameters(self) -> list[nn.Parameter]:
        return self._parameters


class Pair(nn.Module):
    def __init__(self, one: torch.dtype, other: torch.dtype) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(40, 40).to(one), nn.Linear(30, 30).to(other)


def gradients_of(model: nn.Module, rank: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(rank)
    return {
        name: torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p.dtype)
        for name, p in model.named_parameters()
    }


def exchanged(group, kinds, order, *, scale: float = 1.0, updates: int = 1, name="powersgd"):
    """Return the gradients that a process uses, of buckets of one type each in an order."""
    torch.manual_seed(0)
    model = Pair(*kinds)
    policy = compression(name)
    exchange = row_of(policy).factory(policy, group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exchange.prepare(ExchangeSetting(model, optimizer, length=100, peak=2, seed=5))
    for step in range(5, 5 + updates):
        exchange.before_update(step)
        own = {n: g * scale for n, g in gradients_of(model, group.rank()).items()}
        buckets, futures = [], []
        for index, prefix in enumerate(order):
            named = [(n, p) for n, p in model.named_parameters() if n.startswith(prefix)]
            bucket = Bucket(index, [p for _, p in named], [own[n] for n, _ in named], index == 1)
            buckets.append((bucket, [n for n, _ in named]))
            futures.append(exchange.exchange(bucket))
        found = {}
        for future, (bucket, names) in zip(futures, buckets, strict=True):
            bucket._flat = future.wait()
            found |= dict(zip(names, (g.clone() for g in bucket.gradients()), strict=True))
    return found


def mean_of_ranks(kinds) -> dict[str, torch.Tensor]:
    model = Pair(*kinds)
    one, other = gradients_of(model, 0), gradients_of(model, 1)
    return {n: (one[n].double() + other[n].double()) / 2 for n in one}


@pytest.mark.parametrize("order", [("wide", "narrow"), ("narrow", "wide")])
@pytest.mark.parametrize("kinds", [(LOW, HIGH), (HIGH, LOW), (torch.float64, HIGH)])
def test_powersgd_sends_what_it_does_not_compress_in_full_precision(kinds, order):
    """The bucket that came last gave its type to all: float32 was rounded to bfloat16."""
    found = in_ranks(2, lambda group: exchanged(group, kinds, order))[0]
    for name, mean in mean_of_ranks(kinds).items():
        if name.endswith("bias"):
            digits = torch.finfo(found[name].dtype).eps
            torch.testing.assert_close(found[name].double(), mean, rtol=digits, atol=digits)


@pytest.mark.parametrize("kinds", [(LOW, HIGH), (HIGH, LOW), (torch.float64, HIGH)])
def test_powersgd_does_not_depend_on_the_order_of_the_buckets(kinds):
    """Which DDP changes after the first update of a run, and so of a resumed one."""
    found = [
        in_ranks(2, lambda group, order=order: exchanged(group, kinds, order, updates=3))[0]
        for order in (("wide", "narrow"), ("narrow", "wide"))
    ]
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.parametrize("kind", [torch.float16, LOW, HIGH])
def test_powersgd_of_a_dead_layer_is_zero(kind):
    """The smallest number that keeps 0/0 away is 0 in float16."""
    found = in_ranks(2, lambda group: exchanged(group, (kind, kind), ("wide", "narrow"), scale=0))
    for gradient in found[0].values():
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_type_that_is_sent_holds_all_others():
    kinds = (torch.float16, LOW, HIGH, torch.float64)
    for one in kinds:
        for other in kinds:
            found = exchanged_type([one, other])
            assert torch.promote_types(torch.promote_types(one, other), found) == found
            assert torch.tensor(1e-8, dtype=found) > 0
    assert exchanged_type([LOW, LOW]) == LOW


@given(
    st.lists(st.floats(-1, 1), min_size=8, max_size=40),
    st.sampled_from([torch.float16, LOW]),
    st.integers(2, 30),
)
def test_topk_loses_nothing_of_16_bit_gradients(entries, kind, rounds):
    """A small entry was lost beside a large one that waits, as their sum was rounded."""
    total = torch.zeros(len(entries), dtype=torch.float64)
    sent_so_far, left = torch.zeros_like(total), None
    for k in range(rounds):
        gradient = (torch.tensor(entries, dtype=torch.float64) * (1 if k == 0 else 1e-3)).to(kind)
        total += gradient.double()
        sent, at, left = picked(gradient, left, 0.1)
        assert sent.dtype == kind
        sent_so_far.index_add_(0, at, sent.double())
    torch.testing.assert_close(sent_so_far + left.double(), total, rtol=1e-5, atol=1e-6)
