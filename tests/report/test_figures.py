import math
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from etude.record import Evaluation
from etude.report import words
from etude.report.figures import (
    final_run,
    frame,
    loss_against_rate,
    palette,
    schedule_curve,
    trial_curves,
)
from etude.report.figures.curves import MOST, PlottedCurve, window_for
from etude.report.figures.view import View
from etude.tuning.trial_summary import TrialSummary


def test_a_line_for_every_depth_at_which_a_rate_stood(result):
    info = loss_against_rate.info(result())
    assert [(d.updates, d.rates, d.losses) for d in info.depths] == [
        (8, (0.03, 0.1), (0.8, 0.7)),
        (16, (0.1,), (0.3,)),
    ]
    assert info.best == (0.1, 0.3)
    assert info.tied == (0.03, 0.1)
    assert info.stable_below == 1.0
    assert info.diverged == ((1.0, 3),)
    assert info.above == ()
    assert info.untrained == 2.3
    assert info.view.low < 0.3 < 2.3 < info.view.high


def test_a_loss_off_the_axis_is_marked_at_its_edge(result, record):
    far = record(np.ones(16), lr=0.5, evaluations=((0, 2.3, 0.1), (16, 1e9, 0.1)))
    trials = (result().trials[1], TrialSummary(0.5, far, True, False))
    info = loss_against_rate.info(result(trials, stable_below=0.5))
    assert info.above == ((0.5, 1e9),)
    assert info.view.high < 10
    top = [t for t in loss_against_rate.draw(info).data if t.name == "off the axis"]
    assert top[0].y == (info.view.high,)


def test_a_loss_that_is_not_finite_has_no_place(result, record):
    lost = record(
        np.ones(16),
        lr=0.1,
        status="diverged",
        evaluations=((0, 2.3, 0.1), (16, math.nan, 0.1)),
    )
    only = (TrialSummary(0.1, lost, True, True),)
    info = loss_against_rate.info(result(only, stable_below=None, tied=(0.1, 0.1)))
    assert info.best is None
    assert info.depths == ()
    assert info.diverged == ((0.1, 16),)


def test_shades_stand_where_the_result_says(result):
    figure = loss_against_rate.draw(loss_against_rate.info(result()))
    bands = [(s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect"]
    assert bands[0] == (0.03, 0.1)
    assert bands[1][0] == 1.0
    assert math.log10(bands[1][1]) == pytest.approx(figure.layout.xaxis.range[1])
    alone = loss_against_rate.info(result(tied=(0.1, 0.1), stable_below=None))
    assert all(s.type == "line" for s in loss_against_rate.draw(alone).layout.shapes)


def test_trials_end_where_they_were_dropped(result):
    info = trial_curves.info(result())
    assert [(c.lr, c.end, c.updates, c.chosen) for c in info.trials] == [
        (0.03, "dropped", 8, False),
        (0.1, "finished", 16, True),
        (1.0, "diverged", 3, False),
    ]
    assert info.trials[0].train.steps == tuple(range(8))
    assert info.trials[0].valid.values == (2.3, 1.2, 0.8)
    assert trial_curves.draw(info).layout.xaxis.type == "linear"


def test_names_keep_apart(result, record):
    rates = (0.1, 0.11, 0.12)
    trials = tuple(TrialSummary(r, replace(result().record), False, True) for r in rates)
    info = trial_curves.info(result(trials, lr=0.1))
    assert [c.named for c in info.trials] == [True, False, False]


@given(st.lists(st.floats(-6, 1), min_size=2, max_size=12, unique=True))
def test_the_rates_of_the_key_stand_side_by_side_on_a_narrow_page(powers):
    rates = sorted(10**power for power in powers)
    assume(rates[-1] > 1.001 * rates[0])
    kept = trial_curves._apart(rates)
    assert (kept[0], kept[-1]) == (rates[0], rates[-1])
    span = math.log10(rates[-1] / rates[0])
    for low, high in pairwise(kept):
        both = frame.room(words.rate(low)) + frame.room(words.rate(high))
        if len(kept) > 2:
            assert math.log10(high / low) / span > both / 2


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(0.2, 2.4)), min_size=1, max_size=8))
def test_no_name_of_a_curve_stands_on_another(ends):
    """A box of the text's own size on a page 400 wide, on the side of its mark."""
    flat = View(0.0, 2.5, False)
    curves = tuple(
        trial_curves.TrialCurve(
            0.001 * (i + 1), PlottedCurve((0, step), (2.4, loss), 0), PlottedCurve((), (), 0),
            "dropped", step, chosen=i == 0,
        )
        for i, (step, loss) in enumerate(ends)
    )  # fmt: skip
    named = [c for c in trial_curves._named(curves, flat, 16) if c.named]
    assert named[0].chosen
    boxes = []
    for one in named:
        width, x = frame.room(words.rate(one.lr)), one.valid.steps[-1] / 16
        side = trial_curves._beside(one, 16)
        left = x if side.endswith("right") else x - width
        level = one.valid.values[-1] / 2.5 + (0.04 if side.startswith("top") else -0.04)
        boxes.append((left, left + width, level))
        assert left + width <= 1.0 + 1e-9
    for (a, b, level), (c, d, other) in combinations(boxes, 2):
        assert a >= d or b <= c or abs(level - other) >= 0.08 - 1e-3


def test_tied_does_not_stand_on_unstable(result):
    figure = loss_against_rate.draw(
        loss_against_rate.info(result(tied=(0.5, 0.6), stable_below=0.65))
    )
    tied = next(note for note in figure.layout.annotations if note.text == "tied")
    low, high = figure.layout.xaxis.range
    assert tied.xanchor == "right"
    assert (tied.x - low) / (high - low) == pytest.approx(1 - frame.room("unstable"))


def test_the_training_loss_of_trials_is_smoothed(result, record):
    noisy = record(np.tile([0.0, 2.0], 400), evaluations=((0, 2.3, 0.1), (800, 1.0, 0.5)))
    info = trial_curves.info(
        result((TrialSummary(0.1, noisy, False, True),), tied=(0.1, 0.1), stable_below=None)
    )
    assert info.window == 16
    tail = info.trials[0].train.values[-100:]
    assert max(tail) - min(tail) < 0.2
    assert "0.9375" in trial_curves.caption(info)


def test_the_schedule_is_what_every_update_used(record):
    info = schedule_curve.info(record(lr=0.4, length=10))
    assert info.rates.steps == (0, 1, 2, 3)
    np.testing.assert_allclose(info.rates.values, np.linspace(0.4, 0, 4))
    assert info.highest == (0, 0.4)
    assert "ends where the run ended" in schedule_curve.caption(info)
    assert "ends where" not in schedule_curve.caption(schedule_curve.info(record()))


def test_a_run_shows_metric_and_everything_recorded(record):
    info = final_run.info(record(sharp=[1.0, 2, 3, 4], grad_norm=[1.0, math.inf, 3, 4]))
    assert info.raw.values == (2.0, 1.0, 0.5, 0.4)
    assert info.valid.steps == (0, 4)
    assert info.metric.name == "accuracy"
    assert info.metric.curve.values == (0.1, 0.9)
    assert [p.name for p in info.panels] == ["gradient norm, before clipping", "sharp"]
    assert "NaN or infinite: 1 value." in final_run.caption(info)
    axes = [name for name in final_run.draw(info).layout.to_plotly_json() if "yaxis" in name]
    assert len(axes) == 4


def test_a_run_without_metric_has_one_panel(record):
    info = final_run.info(record(metric=None))
    assert info.metric is None
    assert info.panels == ()


def test_more_series_than_panels_are_named(record):
    many = {f"probe{i}": [1.0, 2, 3, 4] for i in range(9)}
    info = final_run.info(record(**many))
    assert len(info.panels) == final_run.MOST_PANELS
    assert info.left_out == ("probe6", "probe7", "probe8")
    assert "probe6, probe7, probe8" in final_run.caption(info)


def test_a_long_run_is_thinned_and_its_spike_kept(record):
    losses = np.linspace(2, 1, 12_345)
    losses[4567] = 7.5
    info = final_run.info(record(losses, evaluations=((0, 2.3, 0.1),)))
    assert len(info.raw.steps) <= MOST
    assert info.raw.values[info.raw.steps.index(4567)] == 7.5
    assert len(info.smooth.steps) <= MOST


def test_a_run_that_diverged_at_once_is_drawn(record):
    info = final_run.info(
        record([2.0, 50.0, 1e20], status="diverged", length=100, evaluations=((0, 2.3, 0.1),))
    )
    assert info.view.log
    assert info.view.high == pytest.approx(2300, rel=0.01)
    cross = [t for t in final_run.draw(info).data if t.name == "diverged"]
    assert cross[0].x == (3,)


@pytest.mark.parametrize("losses", [(), (1.0,), (math.inf,)])
def test_runs_with_hardly_anything_are_drawn(record, losses):
    run = record(losses, status="stopped", length=5, evaluations=(), metric=None)
    info = final_run.info(run)
    assert len(info.raw.steps) == sum(map(math.isfinite, losses))
    final_run.draw(info)
    schedule_curve.draw(schedule_curve.info(run))


def test_an_untrained_loss_that_is_not_finite_is_no_line(result):
    info = loss_against_rate.info(result(untrained=Evaluation(0, math.inf)))
    assert math.isnan(info.untrained)
    figure = loss_against_rate.draw(info)
    assert [s.type for s in figure.layout.shapes] == ["rect", "rect"]


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@given(st.floats(0, 1))
def test_the_scale_of_rates_can_be_seen_and_rises_in_lightness(place):
    for theme in (palette.LIGHT, palette.DARK):
        assert contrast(palette.heat(place, theme), theme.paper) > 2.7
        higher = palette.heat(min(1.0, place + 0.1), theme)
        assert luminance(higher) >= luminance(palette.heat(place, theme)) - 1e-3


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK])
def test_text_has_contrast(theme):
    for colour in (theme.ink, theme.soft, theme.accent, theme.second, theme.warn):
        assert contrast(colour, theme.paper) > 4.5


@given(st.lists(st.floats(0, 1e9).map(words.number), min_size=1, max_size=8))
def test_aligned_numbers_have_their_points_below_each_other(texts):
    plain = [t for t in texts if "e" not in t]
    padded = words.aligned(plain)
    ends = {len(t) - t.index(".") for t in padded if "." in t}
    assert len(ends) <= 1
    assert [t.strip("\u2007\u2008") for t in padded] == plain


def test_what_a_run_ends_at_stands_above_its_panel_where_no_line_is(record):
    shown = final_run.info(record(evaluations=((0, 2.3, 0.1), (4, 0.5, 0.9))))
    figure = final_run.draw(shown)
    assert not any("text" in (trace.mode or "") for trace in figure.data)
    ends = {a.text: a.yref for a in figure.layout.annotations if a.xanchor == "right"}
    assert ends == {"validation ends at 0.5": "y domain", "ends at 90.00%": "y2 domain"}
    assert all(a.yanchor == "bottom" and a.y == 1 for a in figure.layout.annotations)
    without = final_run.draw(final_run.info(record(evaluations=(), metric=None)))
    assert not any(a.xanchor == "right" for a in without.layout.annotations)


@pytest.mark.parametrize(("length", "smoothed"), [(16, False), (1_000, True)])
def test_a_training_loss_is_called_smoothed_only_where_it_is(result, length, smoothed):
    info = replace(trial_curves.info(result()), window=window_for(length))
    titles = [a.text for a in trial_curves.draw(info).layout.annotations]
    assert ("training loss, smoothed" in titles) == smoothed
    assert ("training loss" in titles) != smoothed
    assert ("not smoothed" in trial_curves.caption(info)) != smoothed


@pytest.mark.parametrize(("last", "place"), [(0.3, "bottom left"), (0.8, "top left")])
def test_the_name_of_the_chosen_rate_stands_clear_of_its_own_line(result, record, last, place):
    kept = record(evaluations=((0, 2.3, 0.1), (2, 0.7, 0.8), (4, last, 0.9)))
    found = result((TrialSummary(0.1, kept, False, False),), tied=(0.1, 0.1))
    figure = trial_curves.draw(trial_curves.info(found))
    named = [trace for trace in figure.data if trace.mode == "markers+text"]
    assert [trace.textposition for trace in named] == [place]


@given(low=st.floats(-14, 8), decades=st.floats(0.1, 12))
def test_the_labels_of_a_logarithmic_axis_fit_beside_it(low, decades):
    """A label that is written in full has at most 7 characters: the margin is 52 pixels wide."""
    axis = frame.value_axis(palette.LIGHT, View(10**low, 10 ** (low + decades), True))
    if axis["tickformat"] == "~g":
        for exponent in (math.ceil(low), math.floor(low + decades)):
            if low <= exponent <= low + decades:
                assert len(np.format_float_positional(10.0**exponent, trim="-")) <= 7
