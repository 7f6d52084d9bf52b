"""Units: every duration in steps, with what one step consumes given explicitly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from etude.errors import BadValueError, EtudeError
from etude.schedules import Clock, cosine, linear, multi_step, parse, warmup

CLOCK = Clock(horizon=10_000, steps_per_epoch=97.5, samples_per_step=64, tokens_per_step=4_096)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (500, 500),
        (12.5, 12.5),
        ("500 steps", 500),
        ("5%", 500),
        ("0.29%", 29),
        ("100%", 10_000),
        ("2 epochs", 195),
        ("1 epoch", 98),
        ("1e6 samples", 15_625),
        ("1e9 tokens", 244_141),
        ("1_000_000 Samples", 15_625),
        ("0 epochs", 0),
    ],
)
def test_durations_in_steps(duration: object, steps: float) -> None:
    assert CLOCK.steps(duration) == steps  # type: ignore[arg-type]
    bound = warmup(duration).over(CLOCK)  # type: ignore[arg-type]
    assert bound.length == steps


@given(st.integers(1, 10**6), st.integers(0, 100))
def test_percent_is_exact(horizon: int, percent: int) -> None:
    assert Clock(horizon=horizon).steps(f"{percent}%") == (percent * horizon + 50) // 100


@given(
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_steps_per_epoch_are_those_of_a_loader(
    samples: int, batch: int, accumulation: int, world: int, drop_last: bool, across: bool
) -> None:
    data = TensorDataset(torch.zeros(samples))
    sampler = DistributedSampler(data, num_replicas=world, rank=0, drop_last=drop_last)
    if len(sampler) == 0:
        return
    passes = len(DataLoader(data, batch, sampler=sampler, drop_last=drop_last))
    if across:
        expected: float = passes / accumulation
    else:
        expected = passes // accumulation if drop_last else math.ceil(passes / accumulation)
    if len(sampler) != (samples // world if drop_last else -(-samples // world)):
        return  # torch pads the last sample even when it drops, if the share is not whole
    if expected == 0:
        with pytest.raises(BadValueError, match="fewer than the"):
            Clock.of_data(
                samples,
                batch,
                accumulation=accumulation,
                world_size=world,
                drop_last=True,
                across_epochs=across,
            )
        return
    clock = Clock.of_data(
        samples,
        batch,
        accumulation=accumulation,
        world_size=world,
        drop_last=drop_last,
        across_epochs=across,
    )
    assert clock.steps_per_epoch == expected
    assert clock.samples_per_step == batch * accumulation * world


def test_tokens_and_horizon_of_data() -> None:
    clock = Clock.of_data(1_000, 10, tokens_per_sample=512, horizon="1e6 tokens")
    assert clock.tokens_per_step == 5_120
    assert clock.horizon == 195


def test_forward_passes_and_skipped_updates_do_not_move_the_schedule() -> None:
    clock = Clock(horizon=100)
    assert [clock.step(n, accumulation=4) for n in range(9)] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert clock.step(8, accumulation=4, skipped=1) == 1
    with pytest.raises(BadValueError, match="skipped is 3; it must be at most 2"):
        clock.step(8, accumulation=4, skipped=3)


def test_what_the_clock_does_not_know_is_said() -> None:
    for duration, message in (
        ("5%", r"horizon that is not known.*\.over"),
        ("2 epochs", "does not know steps_per_epoch"),
        ("2 samples", "does not know samples_per_step"),
        ("2 tokens", "does not know tokens_per_step"),
        ("2 parsecs", "unknown unit 'parsecs'"),
        ("two epochs", "a duration reads like"),
        (-5, "at least 0"),
        ("101%", "at most 100%"),
        (True, "must be a number of steps"),
        (float("nan"), "finite number"),
        (2**60, "at most"),
    ):
        with pytest.raises(EtudeError, match=message):
            Clock().steps(duration)  # type: ignore[arg-type]
    with pytest.raises(BadValueError, match="percent is measured against the horizon"):
        Clock(horizon="5%")
    with pytest.raises(BadValueError, match="above 0"):
        Clock(horizon=0)
    with pytest.raises(BadValueError, match="less than one step"):
        Clock(horizon="1 sample", samples_per_step=64)
    with pytest.raises(BadValueError, match="steps_per_epoch is -1; it must"):
        Clock(steps_per_epoch=-1)
    with pytest.raises(BadValueError, match="length of warmup is"):
        warmup("2 epochs").over(1_000)


def test_one_open_segment_takes_what_is_left_wherever_it_stands() -> None:
    assert parse("warmup('5%') >> cosine()").over(1_000) == warmup(50) >> cosine(950)
    s = parse("warmup('5%') >> constant() >> linear('10%')").over(1_000)
    assert repr(s) == "warmup(50) >> constant(length=850) >> linear(100)"
    assert (s(0), s(50), s(899), s(900), s(950), s(1_000)) == (0.0, 1.0, 1.0, 1.0, 0.5, 0.0)
    endless = parse("warmup(10) >> step(30, 0.1) >> linear('10%')").over(100)
    assert repr(endless) == "warmup(10) >> step(30, 0.1).take(80) >> linear(10)"
    nested = (0.1 * parse("warmup(10) >> constant()") >> cosine(50)).over(100)
    assert nested.length == 100
    assert parse("cosine().repeat(4)").over(100).length == 100
    assert parse("cosine().stretch(2)").over(100) == cosine(50).stretch(2)
    assert parse("cosine().shift(20)").over(100) == cosine(80).shift(20)
    assert parse("cosine() * warmup('10%')").over(100) == cosine(100) * warmup(10)
    assert parse("cosine().take('50%') >> linear()").over(100) == cosine(50) >> linear(50)
    assert parse("(warmup('10%') >> cosine()).take('50%')").over(100).length == 50
    assert parse("(warmup('10%') >> cosine()).fit('50%')").over(100).length == 50
    assert multi_step(("30%", "60%")).over(10) == multi_step((3, 6))


def test_a_horizon_that_is_too_short_is_refused() -> None:
    with pytest.raises(BadValueError, match="take 600 steps, but there are only 500"):
        (warmup(600) >> cosine()).over(500)
    with pytest.raises(BadValueError, match="longer than the 10 steps"):
        cosine().shift(20).over(10)
    with pytest.raises(BadValueError, match="fills the rest of the horizon, which is not known"):
        cosine().over(Clock(steps_per_epoch=5))


def test_a_length_in_units_is_not_known_in_steps() -> None:
    for text in (
        "cosine('5%')",
        "warmup('5%') >> cosine(5)",
        "cosine('5%') * warmup(5)",
        "cosine('5%').repeat(2)",
        "constant(length='5%')",
        "cosine(5).take('5%')",
    ):
        s = parse(text)
        assert s.length is None
        assert not s.is_open
        assert s.over(100).length is not None


def test_a_bound_schedule_is_returned_as_it_is() -> None:
    s = warmup(10) >> linear(20)
    assert s.over(1_000) is s
