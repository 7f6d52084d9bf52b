import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from etude.errors import BadValueError
from etude.record import Evaluation
from etude.report.figures.curves import MOST, PlottedCurve, curve, evaluated, smooth, thin
from etude.report.figures.view import rates_view, view

finite = st.floats(-1e12, 1e12)


@given(arrays(np.float64, st.integers(1, 400), elements=finite), st.integers(4, 60))
def test_thinning_keeps_ends_and_extremes(values, most):
    kept = thin(values, most)
    assert len(kept) <= max(most, min(len(values), most))
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert values[kept].min() == values.min()
    assert values[kept].max() == values.max()


@given(st.integers(MOST + 1, 50_000), st.data())
def test_a_spike_of_one_update_stays(count, data):
    spike = data.draw(st.integers(0, count - 1))
    values = np.zeros(count)
    values[spike] = 9.0
    line = curve(values)
    assert len(line.steps) <= MOST
    assert line.values[line.steps.index(spike)] == 9.0


def test_short_series_are_kept_whole():
    assert curve([3.0, 1.0, 2.0]) == PlottedCurve((0, 1, 2), (3.0, 1.0, 2.0))


def test_what_is_not_finite_is_counted():
    assert curve([1.0, math.nan, math.inf, 2.0, -math.inf]) == PlottedCurve((0, 3), (1.0, 2.0), 3)
    assert not curve([math.nan])
    assert evaluated([Evaluation(0, 2.0), Evaluation(3, math.nan)]) == PlottedCurve((0,), (2.0,), 1)


def test_a_task_without_metric_has_no_metric_curve():
    assert evaluated([Evaluation(0, 2.0), Evaluation(3, 1.0)], "metric") == PlottedCurve()


def test_too_few_points_are_refused():
    with pytest.raises(BadValueError, match=r"most=3: give at least 4"):
        thin(np.arange(9.0), 3)


@given(finite, st.integers(1, 300), st.floats(1, 1e4))
def test_smoothing_a_constant_is_the_constant(value, count, window):
    np.testing.assert_allclose(smooth([value] * count, window), value, rtol=1e-9, atol=1e-300)


@given(arrays(np.float64, st.integers(1, 80), elements=finite), st.floats(1, 100))
def test_smoothing_stays_between_the_extremes_and_is_linear(values, window):
    mean = smooth(values, window)
    room = 1e-9 * (1 + np.abs(values).max())
    assert (mean <= np.maximum.accumulate(values) + room).all()
    assert (mean >= np.minimum.accumulate(values) - room).all()
    np.testing.assert_allclose(smooth(2 * values + 1, window), 2 * mean + 1, atol=3 * room)


def test_smoothing_is_the_debiased_mean():
    values = [4.0, 1.0, 7.0, 2.0]
    keep = 1 - 1 / 5
    weights = [[keep ** (t - i) for i in range(t + 1)] for t in range(4)]
    known = [np.average(values[: t + 1], weights=weights[t]) for t in range(4)]
    np.testing.assert_allclose(smooth(values, 5), known)


def test_smoothing_passes_over_what_is_not_finite():
    with_gap = smooth([math.nan, 2.0, math.inf, 4.0], 10)
    assert math.isnan(with_gap[0])
    assert with_gap[1] == with_gap[2] == 2.0
    assert with_gap[3] == smooth([2.0, 4.0], 10)[1]


def test_a_window_of_one_is_the_series():
    np.testing.assert_array_equal(smooth([3.0, 1.0], 1), [3.0, 1.0])


@pytest.mark.parametrize("window", [0, 0.5, math.nan, math.inf])
def test_bad_windows_are_refused(window):
    with pytest.raises(BadValueError, match=r"window=.* is out of bounds: give at least 1"):
        smooth([1.0], window)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(-1e6, 1e6))
def test_an_axis_shows_the_lowest_value_and_has_height(values, reference):
    shown = view(values, reference)
    assert shown.low <= min(values) or (shown.log and shown.low <= max(reference, *values) / 1e8)
    assert shown.low < shown.high
    assert all(math.isfinite(limit) for limit in shown.limits())


def test_an_axis_shows_a_spike_only_so_far():
    assert view([0.5, 2.0, 1e30], 2.0).high < 3
    assert view([0.5, 2.0], 2.0).high >= 2.0


def test_an_axis_is_logarithmic_over_a_decade_of_positive_values():
    assert view([0.01, 1.0]).log
    assert not view([0.5, 1.0]).log
    assert not view([-0.01, 1.0]).log
    assert not view([0.01, 1.0], log=False).log
    assert view([math.nan]).limits() == (0.0, 1.0)


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=9))
def test_every_rate_has_a_place(rates):
    shown = rates_view(rates)
    assert shown.low < min(rates) <= max(rates) < shown.high
