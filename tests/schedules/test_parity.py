"""Each kind against the peer that is known for it, imported and stepped here."""

from __future__ import annotations

import numpy as np
import optax
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.handlers.param_scheduler import PiecewiseLinear
from torch.optim import lr_scheduler as peers
from transformers import optimization as hf

from etude.schedules import (
    Schedule,
    constant,
    cosine,
    exp_range,
    exponential,
    linear,
    multi_step,
    one_cycle,
    piecewise_constant,
    piecewise_interpolate,
    polynomial,
    restarts,
    rsqrt,
    step,
    triangular,
    triangular2,
    warmup,
    wsd,
)

RUN = 60
N = st.integers(1, 40)
GAMMA = st.floats(0.1, 0.99)
SHARE = st.floats(0.0, 0.9)
FEW = settings(max_examples=25)


def torch_rates(make: object, lr: float = 1.0, run: int = RUN) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(run):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def same(s: Schedule, rates: object, run: int = RUN, rel: float = 1e-9) -> None:
    # torch multiplies step by step for some kinds, so its own rounding grows with the run
    expected = list(rates)[:run]  # type: ignore[call-overload]
    np.testing.assert_allclose(
        [s(t) for t in range(len(expected))], expected, rtol=rel, atol=rel * 1e-3
    )


@given(N, GAMMA)
@FEW
def test_torch_step(every: int, gamma: float) -> None:
    same(step(every, gamma), torch_rates(lambda o: peers.StepLR(o, every, gamma)))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), GAMMA)
@FEW
def test_torch_multi_step(milestones: list[int], gamma: float) -> None:
    milestones = sorted(m + 1 for m in milestones)
    same(
        multi_step(tuple(milestones), gamma),
        torch_rates(lambda o: peers.MultiStepLR(o, milestones, gamma)),
    )


@given(GAMMA)
@FEW
def test_torch_exponential(gamma: float) -> None:
    same(exponential(gamma), torch_rates(lambda o: peers.ExponentialLR(o, gamma)))


@given(N, st.floats(0.3, 3.0))
@FEW
def test_torch_polynomial(length: int, power: float) -> None:
    same(polynomial(length, power), torch_rates(lambda o: peers.PolynomialLR(o, length, power)))


@given(N, st.floats(0.1, 1.0), st.floats(0.0, 1.0))
@FEW
def test_torch_linear(length: int, start: float, end: float) -> None:
    same(
        linear(length, start, end),
        torch_rates(lambda o: peers.LinearLR(o, start, end, length)),
        rel=1e-8,
    )


@given(N, SHARE)
@FEW
def test_torch_cosine_until_its_end_after_which_torch_rises_again(n: int, floor: float) -> None:
    s = cosine(n, floor=floor)
    same(s, torch_rates(lambda o: peers.CosineAnnealingLR(o, n, floor), run=n), run=n)
    assert all(s(t) == floor for t in range(n, 3 * n))


@given(st.integers(1, 15), st.sampled_from([1, 2, 3]), SHARE)
@FEW
def test_torch_restarts(period: int, mult: int, floor: float) -> None:
    same(
        restarts(period, length_mult=mult, floor=floor),
        torch_rates(lambda o: peers.CosineAnnealingWarmRestarts(o, period, mult, floor)),
    )


@given(st.integers(2, 20), st.integers(2, 20), SHARE, st.floats(0.9, 1.0))
@FEW
def test_torch_cyclic(up: int, down: int, floor: float, gamma: float) -> None:
    for mode, s in (
        ("triangular", triangular(up, down, floor)),
        ("triangular2", triangular2(up, down, floor)),
        ("exp_range", exp_range(up, gamma, down, floor)),
    ):
        rates = torch_rates(
            lambda o, mode=mode: peers.CyclicLR(o, floor, 1.0, up, down, mode, gamma)
        )
        np.testing.assert_allclose([s(t) for t in range(RUN)], rates, rtol=1e-9, atol=1e-12)


@given(st.floats(1.0, 100.0), st.floats(1.0, 1e4), st.sampled_from(["linear", "cos"]))
@FEW
def test_torch_one_cycle_whose_phases_are_a_step_shorter(
    div: float, final: float, anneal: str
) -> None:
    # torch peaks at pct·T − 1 and ends at T − 1; a run of 51 with the peak at 15 is ours of 50.
    rates = torch_rates(
        lambda o: peers.OneCycleLR(
            o,
            1.0,
            total_steps=51,
            pct_start=16 / 51,
            anneal_strategy=anneal,  # type: ignore[arg-type]
            div_factor=div,
            final_div_factor=final,
        ),
        run=50,
    )
    name = "cosine" if anneal == "cos" else "linear"
    same(one_cycle(50, 0.3, div, final, name), rates, run=50)


@given(N, st.integers(41, 80), st.floats(0.5, 3.0))
@settings(max_examples=8)
def test_transformers_warmups(W: int, T: int, power: float) -> None:
    def rates(make: object, **options: object) -> list[float]:
        return torch_rates(lambda o: make(o, num_warmup_steps=W, **options))  # type: ignore[operator]

    total = {"num_training_steps": T}
    same(warmup(W) >> constant(), rates(hf.get_constant_schedule_with_warmup))
    same(warmup(W) >> linear(T - W), rates(hf.get_linear_schedule_with_warmup, **total))
    same(warmup(W) >> cosine(T - W), rates(hf.get_cosine_schedule_with_warmup, **total)[:T])
    same(warmup(W) >> rsqrt(W), rates(hf.get_inverse_sqrt_schedule, timescale=W))
    same(
        warmup(W) >> polynomial(T - W, power, end=1e-7),
        rates(hf.get_polynomial_decay_schedule_with_warmup, power=power, lr_end=1e-7, **total),
        run=min(T, RUN),
    )
    same(
        warmup(W) >> cosine(T - W, floor=0.1),
        rates(hf.get_cosine_with_min_lr_schedule_with_warmup, min_lr_rate=0.1, **total)[:T],
    )


@given(st.integers(1, 15), st.integers(1, 15))
@FEW
def test_transformers_wsd(W: int, D: int) -> None:
    rates = torch_rates(
        lambda o: hf.get_wsd_schedule(
            o,
            num_warmup_steps=W,
            num_decay_steps=D,
            num_training_steps=50,
            min_lr_ratio=0.1,
            decay_type="linear",
        )
    )
    ours = wsd(W, D, 50, floor=0.1)
    same(ours.shift(-W), rates[W:], run=RUN - W)
    # transformers' floor is also where its warmup begins
    same(warmup(W, start=0.1), rates[:W], run=W)


@given(N, SHARE, st.floats(0.5, 3.0))
@settings(max_examples=10)
def test_optax(n: int, floor: float, power: float) -> None:
    def against(s: Schedule, peer: object) -> None:
        same(s, [float(peer(t)) for t in range(RUN)], rel=2e-4)  # type: ignore[operator]

    against(cosine(n, floor, power), optax.cosine_decay_schedule(1.0, n, floor, power))
    against(polynomial(n, power, floor), optax.polynomial_schedule(1.0, floor, power, n))
    against(linear(n, 0.3, floor), optax.linear_schedule(0.3, floor, n))
    against(step(n, 0.5), optax.exponential_decay(1.0, n, 0.5, staircase=True))
    against(exponential(0.5, n), optax.exponential_decay(1.0, n, 0.5))
    against(
        piecewise_constant((n, 2 * n), (1.0, 0.5, 0.05)),
        optax.piecewise_constant_schedule(1.0, {n: 0.5, 2 * n: 0.1}),
    )
    against(
        piecewise_interpolate((0, n, 2 * n), (1.0, 0.5, 0.05), shape="cosine"),
        optax.piecewise_interpolate_schedule("cosine", 1.0, {n: 0.5, 2 * n: 0.1}),
    )
    against(
        warmup(n) >> cosine(2 * n, floor),
        optax.warmup_cosine_decay_schedule(0.0, 1.0, n, 3 * n, floor),
    )


def test_ignite_piecewise_linear() -> None:
    points = [(5, 0.1), (20, 1.0), (50, 0.2)]
    peer = PiecewiseLinear.simulate_values(RUN, param_name="lr", milestones_values=points)
    steps, values = zip(*points, strict=True)
    same(piecewise_interpolate(steps, values), [rate for _, rate in peer])


@given(st.integers(2, 40), SHARE)
@FEW
def test_pytorch_optimizer_rex(n: int, floor: float) -> None:
    from etude.schedules import rex

    module = pytest.importorskip("pytorch_optimizer")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    peer = module.REXScheduler(optimizer, total_steps=n, max_lr=1.0, min_lr=floor)
    rates = [peer.step() for _ in range(n)]
    s = rex(n, floor=floor)
    ours = [s(t) for t in range(n + 2)]
    # it counts its first step as 0 or 1, by version; the curve is the same
    assert any(
        np.allclose(rates[: n - 1], ours[i : i + n - 1], rtol=1e-9, atol=1e-12) for i in (0, 1)
    )
