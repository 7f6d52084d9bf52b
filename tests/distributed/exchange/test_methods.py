"""Each exchange against its formula, and against torch's own where there is one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import (
    PostLocalSGDState,
    post_localSGD_hook,
)
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import (
    PowerSGDState,
    powerSGD_hook,
)
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from etude.distributed.exchange.base import average
from etude.distributed.exchange.counting import CountingGroup
from etude.distributed.exchange.diloco import usual_momentum
from etude.distributed.exchange.gather import gathered, own_part
from etude.distributed.exchange.peak import peak_update
from etude.distributed.exchange.powersgd import usual_start
from etude.distributed.exchange.topk import packed, picked, unpacked
from etude.randomness import derive_seed
from etude.schedules import Clock, parse
from tests.distributed.exchange.common import BATCH, LENGTH, Replica, in_ranks, network, weights
from tests.helpers import data


def shard(group: dist.ProcessGroup, step: int) -> slice:
    first = (step * BATCH * group.size() + group.rank() * BATCH) % (400 - BATCH)
    return slice(first, first + BATCH)


def peer(group, hook=None, state=None, after=None) -> torch.Tensor:
    """Train with torch's own parts, as a user would write it."""
    model = network()
    ddp = DistributedDataParallel(model, process_group=group)
    if hook is not None:
        ddp.register_comm_hook(state, hook)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x, y = data(400)
    for step in range(LENGTH):
        batch = shard(group, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(ddp(x[batch]), y[batch]).backward()
        optimizer.step()
        if after is not None:
            after(model)
    return weights(model)


def test_without_compression_it_is_ddp_to_the_bit():
    ours = in_ranks(2, lambda g: weights(Replica(g, None).train(LENGTH).model))
    assert torch.equal(ours[0], in_ranks(2, peer)[0])


def test_powersgd_is_torchs_hook():
    """At rank 3, at which one matrix is compressed, with the same first factor."""

    def torchs(group):
        state = PowerSGDState(group, matrix_approximation_rank=3, start_powerSGD_iter=2,
                              orthogonalization_epsilon=1e-8)  # fmt: skip
        draw = torch.Generator().manual_seed(derive_seed(5, "2.weight"))
        state.q_memory_dict[0] = torch.randn(48 * 3, generator=draw, dtype=torch.float64).float()
        state.p_memory_dict[0] = torch.empty(48 * 3)
        return peer(group, powerSGD_hook, state)

    ours = in_ranks(2, lambda g: weights(Replica(g, "powersgd(rank=3)").train(LENGTH).model))
    # The matrices lie elsewhere in memory, on which the last bit of a product depends.
    torch.testing.assert_close(ours[0], in_ranks(2, torchs)[0], rtol=1e-4, atol=1e-5)


def test_local_sgd_is_torchs_hook_with_its_averager():
    """torch averages after the first local update; ours after a period, and after the last."""

    def torchs(group):
        state = PostLocalSGDState(group, None, start_localSGD_iter=2,
                                  post_local_gradient_allreduce=False)  # fmt: skip
        averager = PeriodicModelAverager(period=5, warmup_steps=6, process_group=group)
        return peer(
            group, post_localSGD_hook, state, lambda m: averager.average_parameters(m.parameters())
        )

    ours = in_ranks(2, lambda g: weights(Replica(g, "local-sgd(period=5)").train(LENGTH).model))
    assert torch.equal(ours[0], in_ranks(2, torchs)[0])


@pytest.mark.parametrize("name", ["topk(ratio=1.0)", "local-sgd(period=1)"])
def test_what_leaves_nothing_out_equals_whole_gradients(name):
    """All entries sent; and the mean of the weights after one step of SGD, which is linear."""
    one = in_ranks(2, lambda g: weights(_plain_sgd(g, name)))
    other = in_ranks(2, lambda g: weights(_plain_sgd(g, "none")))
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)


def _plain_sgd(group, name):
    replica = Replica(group, name, "sgd")
    replica.optimizer.param_groups[0]["momentum"] = 0.0
    return replica.train(6).model


def test_diloco_is_its_formula():
    """Against the formula in NumPy, from the weights that the processes reached alone."""
    inner, lr, momentum = 4, 0.7, 0.9

    def run(group):
        replica = Replica(group, f"diloco(inner={inner}, momentum={momentum})")
        seen = []
        bring = replica.exchange.bring_together
        replica.exchange.bring_together = lambda: (
            seen.append(weights(replica.model).numpy()), bring(),
            seen.append(weights(replica.model).numpy()),
        )  # fmt: skip
        replica.train(LENGTH)
        return seen

    first, second = in_ranks(2, run)
    theta, v = weights(network()).numpy(), 0.0
    assert len(first) == 2 * LENGTH // inner
    for k in range(0, len(first), 2):
        delta = theta - (first[k] + second[k]) / 2
        v = momentum * v + delta
        theta = theta - lr * (delta + momentum * v)
        np.testing.assert_allclose(first[k + 1], theta, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(first[k + 1], second[k + 1])


def test_diloco_with_rate_one_and_no_momentum_is_the_mean_of_the_weights():
    one = in_ranks(
        2, lambda g: weights(Replica(g, "diloco(inner=3, lr=1, momentum=0)").train(9).model)
    )
    other = in_ranks(
        2, lambda g: weights(Replica(g, "local-sgd(period=3, start=0)").train(9).model)
    )
    torch.testing.assert_close(one[0], other[0])


@pytest.mark.parametrize("length", [7, 8, 9])
@pytest.mark.parametrize("name", ["local-sgd(period=4, start=0)", "diloco(inner=4)"])
def test_the_last_update_always_brings_the_weights_together(name, length):
    def run(group):
        replica = Replica(group, name, length=length)
        apart = weights(replica.train(length - 1).model)
        return apart, weights(replica.train(length).model)

    (apart, first), (other, second) = in_ranks(2, run)
    assert torch.equal(first, second)
    assert torch.equal(apart, other) == ((length - 1) % 4 == 0)


@pytest.mark.parametrize("name", ["local-sgd(period=4, start=0)", "diloco(inner=4)"])
def test_an_evaluation_between_two_exchanges_is_of_the_mean_weights(name):
    def run(group):
        replica = Replica(group, name).train(3)
        own, sent = weights(replica.model), replica.exchange.bytes_sent
        with replica.exchange.judged(replica.model):
            judged = weights(replica.model)
        assert torch.equal(weights(replica.model), own)
        assert replica.exchange.bytes_sent == sent
        return own, judged

    (own, judged), (other, same) = in_ranks(2, run)
    assert not torch.equal(own, other)
    assert torch.equal(judged, same)
    torch.testing.assert_close(judged, (own + other) / 2)


# ---- top-k ---------------------------------------------------------------------------------

numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40)


@given(numbers, st.floats(0.001, 1.0), st.integers(1, 6))
def test_topk_loses_nothing(entries, ratio, rounds):
    """What was sent plus what is left is the sum of all gradients, entry by entry."""
    total, sent_so_far, left = torch.zeros(len(entries), dtype=torch.float64), 0.0, None
    for k in range(rounds):
        gradient = torch.tensor(entries, dtype=torch.float64).roll(k)
        total += gradient
        sent, at, left = picked(gradient, left, ratio)
        assert len(at.unique()) == len(at) == min(len(entries), math.ceil(ratio * len(entries)))
        sent_so_far = sent_so_far + torch.zeros_like(total).index_add(0, at, sent)
        assert left.abs().max() <= sent.abs().min() or len(at) == len(entries)
    torch.testing.assert_close(sent_so_far + left, total)


@settings(max_examples=40)
@given(st.lists(numbers, min_size=1, max_size=5),
       st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))  # fmt: skip
def test_entries_are_unpacked_as_they_were_packed(tensors, dtype):
    values = [torch.tensor(t).to(dtype) for t in tensors]
    places = [torch.arange(len(t)).flip(0) for t in tensors]
    row = packed(values, places)
    for (v, at), value, place in zip(
        unpacked(row, [len(t) for t in tensors], dtype), values, places, strict=True
    ):
        assert torch.equal(v, value)
        assert torch.equal(at, place)


# ---- PowerSGD ------------------------------------------------------------------------------


def test_powersgd_starts_where_a_short_warmup_ends_and_never_before_the_third_update():
    def start(text, length):
        return peak_update(parse(text).over(Clock(horizon=length)), length)

    assert start("warmup('10%') >> cosine()", 200) == 20
    assert start("warmup('5%') >> cosine()", 1234) == 62
    assert start("0.5 * (warmup(30) >> linear())", 100) == 30
    assert start("constant()", 100) == start("cosine()", 100) == 0
    assert start("warmup(100)", 100) == 50  # it never ends: half of the run

    def first(group):
        runs = [(0, 40), (2, 40), (9, 4000), (9, 40), (60, 1200)]
        return [Replica(group, "powersgd", peak=p, length=n).exchange.start for p, n in runs]

    assert in_ranks(1, first) == [[2, 2, 9, 2, 6]]


def test_powersgd_sends_20_times_fewer_bytes_although_it_starts_whole():
    """With matrices that it makes 25 times smaller, and a warmup of any length."""
    for length in (1_000, 10_000, 10**6):
        start = usual_start(length // 20, length)
        assert length / (start + (length - start) / 25) >= 20


def test_powersgd_keeps_no_nan_of_a_layer_without_gradient():
    def run(group):
        replica = Replica(group, "powersgd")
        with torch.no_grad():
            replica.model[4].weight.zero_()  # nothing reaches the layers below
            replica.model[4].bias.zero_()
        replica.optimizer.param_groups[0]["lr"] = 0.0
        return weights(replica.train(6).model)

    assert torch.isfinite(in_ranks(2, run)[0]).all()


@pytest.mark.parametrize(("name", "kept"), [("topk(ratio=0.1)", "memory"), ("powersgd", "errors")])
def test_a_gradient_that_overflows_leaves_what_was_kept_at_the_new_scale(name, kept):
    def run(group):
        replica = Replica(group, name)
        exchange = replica.exchange
        exchange.setting = replace(exchange.setting, scaled=True)
        replica.train(6)
        before = exchange.state()
        for _ in range(2):  # in the first process alone
            exchange.before_update(6)
            x, y = data(16)
            loss = cross_entropy(replica.ddp(x), y)
            (loss * (math.inf if group.rank() == 0 else 1.0)).backward()
            exchange.go_back(0.5)
        return before, exchange.state()

    for before, after in in_ranks(2, run):
        assert before[kept]
        for parameter, value in before[kept].items():
            assert torch.equal(after[kept][parameter], value / 4)
        for parameter, value in before.get("factors", {}).items():
            assert torch.equal(after["factors"][parameter], value)


# ---- what is common ------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**16))
def test_sharing_out_anew_keeps_the_mean(before, after, seed):
    stacked = torch.randn(before, 3, dtype=torch.float64,
                          generator=torch.Generator().manual_seed(seed))  # fmt: skip
    shared = torch.stack([own_part(stacked, rank, after) for rank in range(after)])
    torch.testing.assert_close(shared.mean(0), stacked.mean(0))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64],
)
def test_gathering_keeps_every_bit_of_every_type(dtype):
    def run(group):
        own = torch.tensor([[group.rank(), 1, 0]]).to(dtype)
        scalar = gathered(group, own[0, 0], torch.device("cpu"))
        empty = gathered(group, own[:, :0], torch.device("cpu"))
        return gathered(group, own, torch.device("cpu")), scalar, empty

    for whole, scalar, empty in in_ranks(3, run):
        assert torch.equal(whole, torch.tensor([[[r, 1, 0]] for r in range(3)]).to(dtype))
        assert torch.equal(scalar, torch.arange(3).to(dtype))
        assert empty.shape == (3, 1, 0)


def test_the_average_goes_by_type_and_keeps_the_order():
    def run(group):
        rank = float(group.rank())
        tensors = [torch.full((2,), rank), torch.full((1,), rank, dtype=torch.float64),
                   torch.full((1, 3), 2 * rank)]  # fmt: skip
        counting = CountingGroup(group)
        found = average(counting, tensors)
        assert counting.calls == 2
        assert counting.bytes_sent == 5 * 4 + 8
        return found

    for found in in_ranks(2, run):
        assert [t.tolist() for t in found] == [[0.5, 0.5], [0.5], [[1.0, 1.0, 1.0]]]
        assert found[1].dtype == torch.float64


@given(st.integers(0, 10_000))
def test_the_momentum_of_diloco_never_remembers_more_than_a_fortieth_of_the_run(outer):
    found = usual_momentum(outer)
    assert 0 <= found <= 0.9
    assert found == 0 or 1 / (1 - found) <= outer / 40 + 1e-9
