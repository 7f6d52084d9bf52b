"""The sentences on an outcome, each number of them read back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.recipe import Recipe
from etude.record import Cost, Evaluation, Record, Status
from etude.tuning import advice
from etude.tuning.search.allowed_rates import AllowedRates
from etude.tuning.trial_summary import TrialSummary

rates = st.lists(
    st.integers(1, 9_999).map(lambda n: n * 1e-4), min_size=2, max_size=6, unique=True
).map(sorted)
budgets = st.integers(12, 99).map(lambda n: n / 10)


def trial(
    lr: float,
    status: Status = Status.FINISHED,
    steps: int = 8,
    end: float = 2.0,
    *,
    tied: bool = False,
):
    losses = [2.0 + (end - 2.0) * i / 16 for i in range(16)]
    record = Record(
        "line", Recipe(lr=lr, steps=16), status, "", 16, None, {"loss": losses},
        (Evaluation(0, 2.0),), Cost(steps, steps, 1.0), {},
    )  # fmt: skip
    return TrialSummary(lr, record, False, tied)


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"(?<![\w.])\d[\d.]*(?:e[+-]?\d+)?(?<!\.)", text)]


@given(rates, budgets, st.booleans())
def test_at_an_edge_names_the_side(found, budget, lowest):
    lr = found[0] if lowest else found[-1]
    said = advice.at_an_edge(lr, [trial(r) for r in found], budget)
    assert f"is the {'lowest' if lowest else 'highest'} one tried" in said
    assert numbers(said) == [budget]


@given(rates)
def test_at_a_bound_names_the_rate_and_the_bound(found):
    low, high = found[0], found[-1]
    allowed = AllowedRates(low, high)
    assert numbers(advice.at_a_bound(low, low, allowed)) == pytest.approx([low])
    assert numbers(advice.at_a_bound(high, high, allowed)) == pytest.approx([high])
    beside = advice.at_a_bound(0.95 * high, high, allowed)
    assert numbers(beside) == pytest.approx([0.95 * high, high], rel=1e-5)
    assert "whether one above it is better was not looked at" in beside


@given(rates, budgets)
def test_too_small_to_tell_names_the_range_and_the_budget(found, budget):
    said = advice.too_small_to_tell([trial(r, tied=True) for r in found], found[0], budget)
    assert numbers(said) == pytest.approx([found[0], found[-1], budget, found[0]])


def test_where_not_all_tie_the_notes_say_what_cannot_be_told():
    assert advice.too_small_to_tell([trial(0.1, tied=True), trial(0.2)], 0.1, 1.5) == ""


@given(rates, budgets, st.integers(1, 15))
def test_unfinished_names_the_rate_and_how_far_it_came(found, budget, steps):
    said = advice.unfinished(found[0], trial(found[0], Status.STOPPED, steps).record, budget)
    assert numbers(said) == pytest.approx([budget, found[0], steps, 16])


@given(rates, st.data())
def test_nothing_trains_says_where_to_look_by_what_was_seen(found, data):
    broke = data.draw(st.lists(st.sampled_from(found), unique=True))
    fallen = data.draw(st.lists(st.sampled_from(found), unique=True))
    steps = {lr: data.draw(st.integers(1, 15)) for lr in broke}
    trials = [
        trial(lr, Status.DIVERGED, steps[lr]) if lr in broke
        else trial(lr, end=0.1 if lr in fallen else 2.0)
        for lr in found
    ]  # fmt: skip
    said = advice.nothing_trains(trials, 2.5, 2.25)
    assert numbers(said)[:4] == pytest.approx([found[0], found[-1], 2.5, 2.25])
    learned = [lr for lr in fallen if lr not in broke]
    assert ("All" in said) == (len(broke) == len(found))
    assert ("fell, at" in said) == (len(broke) < len(found) and bool(learned))
    assert ("fell at none" in said) == (len(broke) < len(found) and not learned)
    if len(broke) == len(found):
        first, last = min(steps.values()), max(steps.values())
        when = f"at update {first}." if first == last else f"at updates {first} to {last}."
        assert f"All {len(found)} ended in NaN or infinity, {when}" in said
    elif learned:
        assert f"fell, at {len(learned)} of {len(found)} rates" in said
    else:
        part = f", and {len(broke)} of {len(found)} ended in NaN or infinity."
        assert (part in said) == bool(broke)


def test_a_known_cause_is_told_in_place_of_a_guess():
    said = advice.nothing_trains([trial(0.1)], float("inf"), 2.0, "The batch is at fault.")
    assert said == ("No rate from 0.1 to 0.1 came to the end of its run. The batch is at fault.")


@given(st.floats(0.1, 9), st.floats(0.1, 9), st.integers(1, 9))
def test_like_a_constant_names_both_values(own, floor, folds):
    said = advice.like_a_constant(Evaluation(9, own), Evaluation(0, floor), "loss", folds)
    assert (f"the mean over {folds} folds" in said) == (folds > 1)
    assert f" is {own:.4g}, " in said
    assert f"gives {floor:.4g}," in said
    undefined = advice.like_a_constant(Evaluation(9, own), Evaluation(0, floor), "auroc", 1)
    assert "validation auroc is undefined" in undefined
