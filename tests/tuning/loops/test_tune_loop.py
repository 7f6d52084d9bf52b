"""A loop of one's own: the same search as of a task, in three forms, at the stated cost."""

from __future__ import annotations

import math
import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import Recipe, tune, tune_loop
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.trials import pool
from etude.trials.score import Goal
from etude.tuning.loops.reports import RunReports
from tests import helpers
from tests.tuning.loops.common import (
    STEPS,
    centre,
    loop_of,
    loss,
    restarting,
    resuming,
    unbroken,
    yielding,
)
from tests.tuning.valleys import SGD, valley


def quick(train, budget=3.0, steps=STEPS, **more):
    return tune_loop(train, steps, budget, progress=False, **more)


def facts(found):
    return {
        t.lr: (t.record.status, [(e.step, e.loss) for e in t.record.evaluations], t.tied)
        for t in found.trials
    }


# ---- the search is that of `tune` ----------------------------------------------------------------


@pytest.mark.parametrize("budget", [1.3, 1.8, 3.0])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_loop_that_does_what_a_task_does_tries_the_same_rates_and_chooses_the_same(
    budget, scale, monkeypatch
):
    """What the loop cannot know is left out: the mean of the weights, and other seeds."""
    monkeypatch.setattr(pool, "weight_mean", lambda *_: [])
    monkeypatch.setattr(
        "etude.tuning.best_trial.compare_over_seeds", lambda pool, trials, best: best
    )
    task, recipe = valley(scale), SGD.replace(steps=STEPS)
    mine = tune(task, recipe, budget, progress=False)
    own = quick(loop_of(task, recipe), budget, around=centre(task, recipe))
    assert [t.lr for t in own.trials] == [t.lr for t in mine.trials]
    assert (own.lr, own.tied, own.outcome, own.cost) == (
        mine.lr,
        mine.tied,
        mine.outcome,
        pytest.approx(mine.cost),
    )
    assert own.stable_below == mine.stable_below


@pytest.mark.slow
def test_the_same_of_a_network_that_overfits_under_a_schedule(monkeypatch):
    monkeypatch.setattr(pool, "weight_mean", lambda *_: [])
    monkeypatch.setattr(pool.TrialPool, "_constant", lambda self, recipe: None)
    monkeypatch.setattr(
        "etude.tuning.best_trial.compare_over_seeds", lambda pool, trials, best: best
    )
    task = helpers.task()
    recipe = Recipe(optimizer="adamw", steps=STEPS, batch_size=16)
    mine = tune(task, recipe, 3.0, objective="loss", progress=False)
    around = centre(task, recipe)
    own = quick(loop_of(task, recipe), around=around, schedule=repr(recipe.schedule))
    assert [t.lr for t in own.trials] == [t.lr for t in mine.trials]
    assert (own.lr, own.outcome) == (mine.lr, mine.outcome)
    assert own.confidence == pytest.approx(mine.confidence)
    assert own.cost == pytest.approx(mine.cost)


# ---- three forms -------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.sampled_from([1.2, 1.5, 2.0, 3.0, 5.0]), st.floats(-3, 0))
def test_a_generator_and_a_loop_that_saves_its_state_find_the_same_to_the_bit(budget, around):
    one, two = (quick(form, budget, around=10**around) for form in (yielding, resuming))
    assert facts(one) == facts(two)
    assert (one.lr, one.tied, one.value) == (two.lr, two.tied, two.value)
    assert one.cost == two.cost
    assert one.repeated == two.repeated == 0


@pytest.mark.parametrize("form", [yielding, resuming, restarting])
def test_what_was_paused_ends_as_a_loop_that_nobody_pauses(form):
    best = quick(form)
    assert best.value == unbroken(best.lr)
    assert best.loss == loss(best.value)


@settings(max_examples=10)
@given(st.sampled_from([1.5, 2.0, 3.0, 5.0, 8.0]), st.floats(-3, 0))
def test_a_loop_that_cannot_be_resumed_pays_for_every_update_that_it_makes(budget, around):
    made = Counter()

    def train(lr, report):
        w = 3.0
        report(0, loss(w))
        for step in range(1, STEPS + 1):
            w -= lr * 2 * (w - 1)
            made[lr] += 1
            report(step, loss(w))

    best = quick(train, budget, around=10**around)
    assert best.cost == pytest.approx(sum(made.values()) / STEPS)
    assert best.repeated > 0
    assert best.cost <= budget + 1e-9
    assert "starts over" in best.advice()
    assert math.fsum(part.runs for part in best.costs) == pytest.approx(best.cost)


@settings(max_examples=10)
@given(st.sampled_from([1.2, 1.5, 2.0, 3.0, 5.0]), st.floats(-3, 0))
def test_the_cost_of_one_that_can_is_what_it_made_and_within_the_budget(budget, around):
    made = Counter()

    def train(lr):
        for item in yielding(lr):
            made[lr] += item[0] > 0
            yield item

    best = quick(train, budget, around=10**around)
    assert best.cost == pytest.approx(sum(made.values()) / STEPS)
    assert best.cost <= budget + 1e-9


def test_a_loop_that_takes_resume_but_saves_nothing_starts_over():
    def train(lr, report, resume):
        assert resume is None
        restarting(lr, report)

    assert quick(train).repeated > 0


def test_a_third_argument_of_any_name_is_what_was_saved():
    best = quick(lambda lr, report, saved: resuming(lr, report, saved))
    assert best.repeated == 0
    assert best.value == unbroken(best.lr)


# ---- what surrounds it ---------------------------------------------------------------------------


def test_the_random_state_of_the_caller_is_left_as_it_was():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    quick(yielding)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_loop_is_ended_cleanly_where_it_is_paused_or_dropped():
    opened = Counter()

    def train(lr, report, resume):
        opened["open"] += 1
        try:
            try:
                return resuming(lr, report, resume)
            except Exception:  # noqa: BLE001 - what a loop of anyone's own may do
                pytest.fail("a pause is no Exception")
        finally:
            opened["open"] -= 1

    quick(train)
    assert opened["open"] == 0

    def generated(lr):
        opened["open"] += 1
        try:
            yield from yielding(lr)
        finally:
            opened["open"] -= 1

    quick(generated)
    assert opened["open"] == 0


def test_a_function_is_called_only_where_its_value_is_needed():
    called = Counter()

    def train(lr):
        w = 3.0

        def score():
            called["loss"] += 1
            return loss(w)

        yield 0, score
        for step in range(1, STEPS + 1):
            w -= lr * 2 * (w - 1)
            called["update"] += 1
            yield step, score
        return w

    best = quick(train, evaluations=4)
    assert called["loss"] < called["update"] / 8
    assert best.loss == loss(best.value)


def test_epochs_are_as_good_a_unit_as_updates():
    def train(lr):
        w = 3.0
        for epoch in range(1, 11):
            for _ in range(10):
                w -= lr * 2 * (w - 1)
            yield epoch, loss(w)

    best = quick(train, steps=10, around=0.01)
    assert best.cost <= 3.0
    assert best.loss < 1e-6


def test_a_loop_that_counts_from_zero_ends_one_short():
    def train(lr):
        w = 3.0
        for step in range(STEPS):
            w -= lr * 2 * (w - 1)
            yield step, loss(w)
        return w

    best = quick(train)
    assert best.chosen.record.status == "finished"
    assert best.chosen.record.cost.steps == STEPS - 1


def test_one_that_stops_early_by_itself_is_finished():
    def train(lr):
        w = 3.0
        yield 0, loss(w)
        for step in range(1, 41):
            w -= lr * 2 * (w - 1)
            yield step, loss(w)
        return w

    best = quick(train)
    assert best.chosen.record.status == "finished"
    assert best.value is not None
    assert best.cost <= 3.0


def test_parts_of_the_validation_data_give_a_confidence():
    def train(lr):
        w = 3.0
        for step in range(1, STEPS + 1):
            w -= lr * 2 * (w - 1)
            yield step, [loss(w) * (1 + 0.1 * i) for i in range(40)]

    best = quick(train)
    assert best.confidence is not None
    assert len(best.record.evaluations[-1].parts) == 16
    parts = best.record.evaluations[-1].parts
    assert math.fsum(parts) / len(parts) == pytest.approx(best.loss)


def test_a_score_is_maximised():
    def train(lr):
        for step, value, *_ in yielding(lr):
            yield step, -value

    best = quick(train, objective="score", maximize=True)
    assert best.lr == quick(yielding).lr
    assert best.metric == -quick(yielding).loss


def test_what_no_rate_trains_is_said():
    best = quick(lambda lr: ((step, math.nan) for step in range(STEPS)), around=0.1)
    assert best.outcome == "nothing trains"
    assert best.value is None
    flat = quick(lambda lr: ((step, 1.0) for step in range(STEPS + 1)))
    assert flat.outcome == "nothing trains"


def test_what_is_not_told_is_said():
    best = quick(lambda lr: (item for item in yielding(lr) if item[0] > 0))
    assert "does not report step 0" in best.advice()


def test_a_report_and_a_summary_are_as_of_a_task():
    best = quick(yielding, name="my loop", schedule="cosine()")
    assert "my loop" in best.summary()
    assert "Learning rate" in best.report().html
    assert "best.lr" not in repr(best)
    plain = best.plain()
    assert plain["lr"] == best.lr
    assert "recipe" not in plain
    assert plain["steps"] == STEPS
    assert repr(best).startswith("LoopResult('my loop': lr=")
    assert "repeated" in quick(restarting).summary()


def test_a_page_of_a_loop_without_training_losses_is_drawn():
    page = quick(lambda lr: ((s, v) for s, v, *_ in yielding(lr))).report()
    assert "The loop reported no training loss" in page.html


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (lambda lr, report: None, "ended without a report of an update"),
        (lambda lr, report: report(0, 1.0), "ended without a report of an update"),
        (lambda lr: iter(()), "ended without a report of an update"),
        (lambda lr: None, r"the loop returned None: a function of the rate alone is a generator"),
        (lambda lr, report: [report(5, 1.0), report(3, 1.0)], r"report\(3, \.\.\.\) after report"),
        (lambda lr, report: report(STEPS + 1, 1.0), f"the run has steps={STEPS}"),
        (lambda lr, report: report(-1, 1.0), "out of bounds"),
        (lambda lr, report: report(1.5, 1.0), "the step is not a whole number"),
        (lambda lr, report: report(1, "low"), "loss='low' is not a number"),
        (lambda lr, report: report(1, None), "loss=None is not a number"),
        (lambda lr, report: report(1, []), "loss is empty"),
        (lambda lr, report: report(1, 1.0, training="x"), "training='x' is not a number"),
        (lambda: None, r"cannot be called as train\(lr, report\)"),
        (3, "is not a function"),
    ],
)
def test_a_loop_that_does_not_fit_is_refused_with_the_way_out(train, message):
    with pytest.raises((BadTypeError, BadValueError, TaskError), match=message):
        quick(train)


def test_a_generator_that_yields_something_else_is_refused():
    def train(lr):
        yield 1.0

    with pytest.raises(TaskError, match="yield step, loss"):
        quick(train)


def test_a_loop_that_saves_its_state_and_starts_over_is_refused():
    def train(lr, report, resume):
        for step in range(1, STEPS + 1):
            report(step, 1 / step, state=step)

    with pytest.raises(BadValueError, match=r"after a pause at step [0-9]+: begin where `resume`"):
        quick(train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 3}, "steps=3 is too short to pause"),
        ({"steps": 0}, "steps=0 is out of bounds"),
        ({"steps": 2.5}, "steps=2.5 is not a whole number"),
        ({"budget": 1.0}, "budget=1 is out of bounds"),
        ({"steps": np.True_}, "steps=np.True_ is not a whole number"),
        ({"around": -0.1}, "around=-0.1 is out of bounds"),
        ({"around": 0}, "around=0 is out of bounds"),
        ({"around": torch.tensor(True)}, r"around=tensor\(True\) is not a number"),
        ({"around": "a"}, "around='a' is not a number"),
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv'"),
        ({"objective": "loss", "maximize": True}, "training lowers a loss"),
        ({"evaluations": 0}, "evaluations=0 is out of bounds"),
    ],
)
def test_options_out_of_bounds_are_refused(options, message):
    with pytest.raises((BadTypeError, BadValueError), match=message):
        quick(yielding, **options)


def test_numbers_of_other_libraries_are_as_good():
    def facts_of(**options):
        found = tune_loop(yielding, budget=1.3, progress=False, **options)
        return facts(found), found.recipe.digest

    plain = facts_of(steps=STEPS, around=0.25, evaluations=5, seed=3)
    whole = {"steps": np.int64(STEPS), "evaluations": np.uint8(5), "seed": torch.tensor(3)}
    assert facts_of(around=np.float32(0.25), **whole) == plain
    assert facts_of(around=torch.tensor(0.25), **whole) == plain


def test_a_budget_too_small_to_start_over_is_refused_with_the_way_out():
    with pytest.raises(BadValueError, match=r"takes 1\.375 full runs and the first report"):
        quick(restarting, 1.3)


def test_an_error_of_the_loop_is_its_own_and_names_the_rate():
    def train(lr, report):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        quick(train, around=0.1)
    assert "lr=" in caught.value.__notes__[0]


@pytest.mark.parametrize("kind", [OverflowError, FloatingPointError, ZeroDivisionError])
@pytest.mark.parametrize("early", [False, True])
def test_an_arithmetic_error_at_a_rate_is_how_that_rate_diverges(kind, early):
    def train(lr):
        if early and lr > 0.1:
            raise kind("too large")
        for step, value, *training in yielding(lr):
            if not math.isfinite(value) or value > 1e3:
                raise kind("too large")
            yield (step, value, *training)

    best = quick(train, around=0.1 if early else 1.0)
    broken = [t for t in best.trials if t.record.status == "diverged"]
    assert broken
    assert all(t.record.reason.startswith(f"{kind.__name__}: too large") for t in broken)
    assert best.lr < min(t.lr for t in broken)
    assert best.chosen.record.status == "finished"


def test_another_error_ends_the_search_and_says_where_to_go_on():
    def train(lr):
        for step, value, *training in yielding(lr):
            if step == 30:
                raise RuntimeError("mine")
            yield (step, value, *training)

    with pytest.raises(RuntimeError, match="mine") as caught:
        quick(train)
    assert "train there alone to find the error" in caught.value.__notes__[0]


def test_a_run_folder_is_refused():
    best = quick(yielding)
    with pytest.raises(BadValueError, match="has no run folder"):
        best.save("somewhere")
    with pytest.raises(BadValueError, match="no run folder to load"):
        type(best).load("somewhere")


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=100))
def test_the_mean_of_the_parts_is_that_of_all_values(values):
    reports = RunReports(10, 5, Goal())
    reports.begin(10)
    reports.take(1, values)
    reports.take(10, values)
    found = reports.evaluations[-1]
    assert found.loss == pytest.approx(np.mean(values), abs=1e-9)
    assert math.fsum(found.parts) / len(found.parts) == pytest.approx(found.loss, abs=1e-9)


def test_a_loop_that_does_not_use_its_rate_is_told_so():
    def at(used):
        def train(lr):
            w = 3.0
            yield 0, (w - 1) ** 2
            for step in range(1, 51):
                w -= (lr if used else 0.02) * (w - 1)
                yield step, (w - 1) ** 2

        return train

    found = {used: tune_loop(at(used), steps=50, progress=False) for used in (True, False)}
    assert "look whether the loop uses the rate that it is given" in found[False].advice()
    assert "look whether the loop uses" not in found[True].advice()


def test_a_loss_with_a_gradient_is_taken_without_a_warning():
    def train(lr):
        w = torch.tensor(3.0, requires_grad=True)
        for step in range(1, 21):
            loss = (w - 1) ** 2
            (gradient,) = torch.autograd.grad(loss, w)
            yield step, (w - 1) ** 2
            with torch.no_grad():
                w -= lr * gradient

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tune_loop(train, steps=20, budget=1.5, progress=False).lr > 0
