"""The measures of several kinds of run together, by their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.studies.analysis.drift import drift
from etude.studies.analysis.groups import contrasts, drifts, rankings
from etude.studies.analysis.intervals import draws, ends, mean_interval
from etude.studies.analysis.progress import targets_of, to_target
from etude.studies.analysis.ranking import ranking, surely_below
from etude.studies.analysis.rate_sensitivity import (
    missed_share,
    sensitivity_difference,
    sensitivity_interval,
)
from etude.studies.analysis.stable import stable_range, study_edge
from etude.studies.analysis.targets import target_loss, updates_to
from etude.studies.measures import sensitivity, stable_decades
from tests.studies.common import kind, made, valley

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=7)
LOSSES = st.floats(0.0, 3.0) | st.just(math.inf)


# ---- intervals ---------------------------------------------------------------------------------


@given(VALUES)
def test_an_interval_holds_its_mean_and_lies_within_the_values(values):
    found = mean_interval(values)
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.known == (len(values) > 1)
    if len(values) == 1:
        assert found.low == found.high == found.value


@given(
    st.lists(st.floats(-10, 10) | st.just(math.inf), min_size=1, max_size=80), st.floats(0.01, 0.99)
)
def test_the_ends_are_numpys_nearest_quantiles(values, share):
    sides = [(1 - share) / 2, (1 + share) / 2]
    assert ends(values, share) == tuple(np.quantile(values, sides, method="nearest"))


@given(VALUES, st.floats(-5, 5), st.floats(0.1, 5))
def test_an_interval_moves_and_scales_with_the_values(values, shift, scale):
    first, second = mean_interval(values), mean_interval([scale * v + shift for v in values])
    for end in ("value", "low", "high"):
        expected = scale * getattr(first, end) + shift
        assert getattr(second, end) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5])
def test_of_few_seeds_every_draw_is_listed_once(seeds):
    listed = [tuple(row) for row in draws(seeds).tolist()]
    assert sorted(listed) == sorted(itertools.product(range(seeds), repeat=seeds))


def test_a_wider_share_gives_a_wider_interval():
    values = np.random.default_rng(0).standard_normal(12)
    narrow, wide = (mean_interval(values, share=share) for share in (0.5, 0.95))
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high


def test_a_run_that_diverged_makes_the_mean_infinite():
    found = mean_interval([1.0, math.nan])
    assert math.isinf(found.value)
    assert not found.known


def test_bad_arguments_are_named():
    with pytest.raises(BadValueError, match=r"share=1\.5 is out of bounds"):
        ends([1, 2], 1.5)
    with pytest.raises(BadValueError, match=r"values has the shape \(0,\)"):
        mean_interval([])
    with pytest.raises(BadValueError, match="seeds=0 is out of bounds"):
        draws(0)
    with pytest.raises(BadValueError, match=r"losses has the shape \(3,\) for 3 rates"):
        drift([1, 2], [[1, 2, 3]] * 2, [[1, 2, 3]] * 2)
    with pytest.raises(BadValueError, match=r"sizes=\[0, 1\]: give numbers above 0"):
        drift([0, 1], [[1]] * 2, [[[1]]] * 2)


# ---- drift -------------------------------------------------------------------------------------

RATES = np.logspace(-4, 1, 21)


@given(st.floats(-1.2, 1.2))
def test_the_slope_of_a_power_law_is_within_the_interval_and_close(power):
    sizes = [8, 16, 32, 64]
    tables = []
    for size in sizes:
        best = 0.02 * (size / 8) ** power
        tables.append(np.log10(RATES / best)[:, None] ** 2 + np.zeros((1, 3)))
    found = drift(sizes, [RATES] * 4, tables)
    if found.known:
        assert found.allows(power)
        assert abs(found.slope - power) < 0.35


@given(st.integers(0, 20), st.integers(1, 19))
def test_no_slope_where_an_optimum_may_lie_outside(first, second):
    tables = [np.abs(np.arange(21) - at)[:, None].astype(float) for at in (first, second)]
    found = drift([1, 2], [RATES] * 2, tables)
    assert found.known == (first not in (0, 20))
    if not found.known:
        assert "that was tried" in found.reason
        assert not found.moves


def test_what_cannot_be_told_says_why():
    assert drift([4], [[1, 2]], [[[1], [2]]]).reason == "there are runs of only one value"
    assert drift([4, 8], [[1.0]] * 2, [[[math.inf]]] * 2).reason == "no rate trained at 4"


def test_noise_and_coarse_rates_widen_the_interval():
    sizes, middle = [1, 10], np.log10([0.01, 0.1])
    rng = np.random.default_rng(1)

    def tables(rates, noise):
        return [
            (np.log10(rates) - m)[:, None] ** 2 + noise * rng.standard_normal((len(rates), 4))
            for m in middle
        ]

    def width(rates, noise):
        found = drift(sizes, [rates] * 2, tables(rates, noise))
        return found.high - found.low

    fine, coarse = np.logspace(-4, 1, 41), np.logspace(-4, 1, 6)
    assert width(fine, 0) < width(coarse, 0)
    assert width(fine, 0) < width(fine, 0.05)


# ---- range and edge ----------------------------------------------------------------------------


@given(st.lists(LOSSES, min_size=1, max_size=9), st.floats(0.1, 2.5), st.randoms())
def test_the_stable_range_is_the_widest_run_of_rates_that_train(losses, untrained, shuffle):
    rates = [10.0 ** (i - 4) for i in range(len(losses))]
    pairs = list(zip(rates, losses, strict=True))
    shuffle.shuffle(pairs)
    found = stable_range(*zip(*pairs, strict=True), untrained)
    runs = [
        (i, j)
        for i in range(len(losses))
        for j in range(i, len(losses))
        if all(loss < untrained for loss in losses[i : j + 1])
    ]
    if not runs:
        assert found is None
        assert math.isnan(stable_decades(*zip(*pairs, strict=True), untrained))
        return
    first, last = max(runs, key=lambda run: (run[1] - run[0], -run[0]))
    assert (found.low, found.high) == (rates[first], rates[last])
    assert found.decades == pytest.approx(last - first)
    assert found.open_below == (first == 0)
    assert found.open_above == (last == len(losses) - 1)
    assert found.broken == (None if found.open_above else rates[last + 1])


def test_an_edge_needs_a_rate_that_breaks_and_a_limit():
    whole = stable_range([0.1, 1.0], [0.5, 0.5], 1.0)
    ends_there = stable_range([0.1, 1.0], [0.5, math.inf], 1.0)
    assert study_edge(whole, 1.0) is None
    assert study_edge(ends_there, None) is None
    assert study_edge(ends_there, 0.5).ratio == (pytest.approx(0.2), pytest.approx(2.0))


# ---- sensitivity -------------------------------------------------------------------------------


@given(
    st.integers(1, 4).flatmap(
        lambda seeds: st.lists(
            st.lists(st.floats(0, 3), min_size=seeds, max_size=seeds), min_size=1, max_size=6
        )
    )
)
def test_sensitivity_has_the_value_of_the_means_and_no_interval_of_one_seed(table):
    found = sensitivity_interval(table, 2.0)
    means = [sum(row) / len(row) for row in table]
    assert found.value == pytest.approx(sensitivity(means, 2.0), abs=1e-9)
    assert 0 <= found.low <= found.high
    assert found.known == (len(table[0]) > 1)
    share = missed_share(table, 2.0)
    assert (share is None) == (min(means) >= 2.0)
    if share is not None:
        assert 0 <= share.value <= 1


def test_a_difference_of_a_kind_with_itself_is_nothing():
    table = np.random.default_rng(0).uniform(0.5, 1.5, (5, 4))
    found = sensitivity_difference((table, 2.0), (table, 2.0))
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert sensitivity_difference((table, math.nan), (table, 2.0)) is None


# ---- ranks -------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 5), min_size=1))
def test_ranks_are_the_order_of_the_means(means):
    found = ranking({name: [mean, mean] for name, mean in means.items()})
    assert [one.end.value for one in found.rivals] == sorted(means.values())
    for one in found.rivals:
        assert one.rank == 1 + sum(other < means[one.name] for other in means.values())
        assert one.half_rank is None
    assert found.flips == ()


@given(st.permutations(range(4)))
def test_flips_are_the_pairs_in_another_order(order):
    names = "abcd"
    ends_ = {name: [i, i + 0.1] for i, name in enumerate(names)}
    halves = {name: [10 + at, 10.1 + at] for name, at in zip(names, order, strict=True)}
    found = ranking(ends_, halves)
    expected = {
        (names[j], names[i]) for i, j in itertools.combinations(range(4), 2) if order[j] < order[i]
    }
    assert {(f.ahead_half, f.ahead_end) for f in found.flips} == expected
    assert all(flip.sure for flip in found.flips)


def test_one_seed_tells_no_order():
    found = ranking({"a": [1.0], "b": [2.0]}, {"a": [4.0], "b": [3.0]})
    assert [flip.sure for flip in found.flips] == [False]
    assert found.tied == ("b",)
    assert not surely_below([1.0], [2.0])


def test_noise_makes_a_tie():
    found = ranking({"a": [1.0, 3.0], "b": [2.9, 1.2], "c": [9.0, 9.1]})
    assert found.tied == ("b",)


def test_a_half_that_is_not_known_gives_no_rank_at_half_way():
    found = ranking({"a": [1.0], "b": [2.0]}, {"a": [math.nan], "b": [1.0]})
    assert all(one.half_rank is None for one in found.rivals)
    assert found.flips == ()


# ---- groups ------------------------------------------------------------------------------------


def test_an_optimizer_stands_at_its_best_schedule_and_rate():
    kinds = {
        kind(optimizer="sgd", schedule="cosine()"): valley(0.1, 0.5),
        kind(optimizer="sgd", schedule="constant()"): valley(0.1, 0.9),
        kind(optimizer="adam", schedule="cosine()"): valley(0.01, 0.7),
    }
    (found,) = rankings(made(kinds).summaries(), "optimizer")
    assert [one.name for one in found.ranking.rivals] == ["sgd", "adam"]
    assert found.best["sgd"].kind.schedule == "cosine()"
    assert [one.end.value for one in found.ranking.rivals] == pytest.approx([0.51, 0.71])
    rows = made(kinds).rows
    at_best = [row.number for row in rows if (row.kind.optimizer, row.lr) in {
        ("sgd", 0.1), ("adam", 0.01)} and row.kind.schedule == "cosine()"]  # fmt: skip
    assert list(found.trials) == at_best
    (schedules,) = rankings(made(kinds).summaries(), "schedule")
    assert [one.name for one in schedules.ranking.rivals] == ["cosine()", "constant()"]


def test_sizes_are_compared_only_where_all_else_is_equal():
    kinds = {
        kind(optimizer=o, batch_size=b, width=w): valley()
        for o in ("sgd", "adam")
        for b in (8, 16)
        for w in (4, 8, 16)
    }
    found = drifts(made(kinds).summaries())
    widths = [one for one in found if one.size == "width"]
    batches = [one for one in found if one.size == "batch size"]
    assert [one.sizes for one in widths] == [(4.0, 8.0, 16.0)] * 4
    assert [one.sizes for one in batches] == [(8.0, 16.0)] * 6
    for one in found:
        others = {(s.kind.optimizer, s.kind.task) for s in one.summaries}
        assert len(others) == 1


def test_the_drift_of_a_study_is_that_of_its_optima():
    kinds = {kind(width=w): valley(0.01 * w) for w in (1, 10, 100)}
    (found,) = drifts(made(kinds, lrs=np.logspace(-4, 2, 25).round(6).tolist()).summaries())
    assert found.drift.slope == pytest.approx(1.0, abs=0.05)
    assert found.drift.moves


def test_a_contrast_has_one_part_that_differs_and_the_same_rates():
    kinds = {
        kind(norm=norm, depth=depth): valley(0.1, broken_above=10 if norm else 0.5)
        for depth in (1, 2)
        for norm in (False, True)
    }
    found = contrasts(made(kinds).summaries())
    assert [one.part for one in found] == ["model.depth", "model.depth", "model.norm", "model.norm"]
    for one in found[2:]:
        assert one.sensitivity.value < 0
        assert one.sure


# ---- targets -----------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 3), min_size=1, max_size=9), st.floats(0, 3))
def test_updates_to_a_target_is_the_first_evaluation_below_it(losses, target):
    steps = [10 * i for i in range(len(losses))]
    found = updates_to(steps, losses, target)
    below = [step for step, loss in zip(steps, losses, strict=True) if loss <= target]
    assert found == (below[0] if below else math.inf)


def test_the_target_is_a_share_of_the_largest_drop():
    result = made({kind(optimizer="sgd"): valley(floor=0.5), kind(optimizer="adam"): valley()})
    summaries = result.summaries()
    targets = targets_of(summaries)
    assert targets == {"net": pytest.approx(target_loss(2.0, 0.51))}
    records = {n: result.record(n) for n in summaries[0].best_trials}
    found = to_target(summaries[0], targets["net"], records)
    expected = [
        updates_to([e.step for e in r.evaluations], [e.loss for e in r.evaluations], found.target)
        for r in records.values()
    ]
    assert found.updates.value == pytest.approx(np.mean(expected))
    assert found.every == 5
    assert to_target(summaries[1], targets["net"], records) is None
