"""What is said of a probe: its rise, its spikes, its norm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.measure.probe import SPIKE, judge

curves = st.lists(st.floats(0.01, 10), min_size=10, max_size=60)


@given(curves)
def test_the_rise_is_the_largest_over_the_running_minimum(losses):
    found = judge(0.1, losses, [1.0], "", None)
    want = max(b - a for i, a in enumerate(losses) for b in losses[i:])
    assert found.rise == pytest.approx(want)
    assert found.unstable == (not found.last < losses[0])


@given(curves, st.floats(0.1, 100))
def test_the_verdict_does_not_depend_on_the_unit_of_the_loss(losses, unit):
    own = [3.0 / (t + 1) for t in range(len(losses))]
    one = judge(0.1, losses, [1.0], "", own)
    other = judge(0.1, [unit * v for v in losses], [1.0], "", [unit * v for v in own])
    assert one.unstable == other.unstable
    assert other.rise == pytest.approx(unit * one.rise)


def test_a_spike_is_measured_against_the_recipes_own_run():
    calm = [2.0 - 0.03 * t for t in range(50)]
    spiky = [*calm[:20], calm[19] + 1.0, *calm[21:]]
    assert judge(0.2, spiky, [1.0], "", calm).spiked
    assert not judge(0.2, spiky, [1.0], "", spiky).spiked
    assert judge(0.2, spiky, [1.0], "", calm).rise_at == 20
    assert SPIKE > 1


def test_a_dead_network_far_below_its_start_is_unstable():
    own = [10.0 / (t + 1) for t in range(100)]
    dead = [10.0, *[4.0] * 99]
    slow = [10.0 - 0.06 * t for t in range(100)]
    assert judge(0.2, dead, [1.0], "", own).unstable
    assert not judge(0.2, slow, [1.0], "", own).unstable
    assert judge(0.2, [1.0], [], "the training loss became nan", own).diverged


def test_the_norm_is_its_ninetieth_percentile():
    assert judge(0.1, [2.0, 1.0], list(range(101)), "", None).norm == 90
