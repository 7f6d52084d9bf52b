"""Whether a curve turns, beyond noise: one question, asked by the search, advice and diagnosis."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from etude import Recipe, Task
from etude.diagnosis.overfitting import overfitting
from etude.record import Cost, Evaluation, Record, Status
from etude.trials.curve import Curve, mean_training_loss
from etude.trials.turn import FALLEN, RISEN, rebound, turn, turn_of_run
from etude.tuning.overfits import overfit
from etude.tuning.search.overfitting import turned
from tests.helpers import mlp

levels = st.floats(-100, 100, allow_nan=False)
losses = st.lists(st.integers(1, 99).map(lambda n: n / 100), min_size=2, max_size=12)

X = torch.zeros(4, 2)
TASK = Task(lambda: mlp(2, 2), (X, X), valid=(X, X), loss=mse_loss)


def run(valid: list[float], fall: float = 0.9, spread: float = 0.0) -> Record:
    """Return a finished run of 10 updates an evaluation, from 1.0 untrained.

    Its training loss falls evenly by `fall`. Each loss is the mean of two slices, `spread` apart
    at every other evaluation.
    """
    length = 10 * len(valid)
    seen = [
        Evaluation(10 * i, loss, None, (loss - spread * (i % 2), loss + spread * (i % 2)))
        for i, loss in enumerate([1.0, *valid])
    ]
    series = [1.0 - fall * i / length for i in range(length)]
    recipe = Recipe(lr=0.1, steps=length, evaluations=len(valid))
    return Record(
        "line", recipe, Status.FINISHED, "", length, None, {"loss": series}, tuple(seen),
        Cost(length, length, 1.0), {},
    )  # fmt: skip


def curve_of(record: Record) -> Curve:
    seen = record.evaluations[1:]
    return Curve(
        record.recipe.lr,
        tuple(e.step / record.length for e in seen),
        tuple(e.loss for e in seen),
        tuple(mean_training_loss(record.series["loss"], e.step, record.length) for e in seen),
    )


# ---- the thresholds ------------------------------------------------------------------------------


@given(st.lists(levels, min_size=1, max_size=20))
def test_a_rebound_is_the_highest_rise_from_what_went_before(scores):
    rises = [b - a for i, a in enumerate(scores) for b in scores[i:]]
    assert rebound(scores) == pytest.approx(max(rises), abs=1e-9)


@given(
    st.floats(0, 0.2), st.floats(0, 0.2), st.floats(0, 0.05), st.floats(0, 0.2), st.floats(0, 0.3)
)
def test_every_threshold_must_be_passed(rise, first, error, fallen, risen):
    """It falls to 0.4, comes back from a rise by `first`, and rises from its lowest by `rise`."""
    scores = [1.0, 0.4, 0.4 + first, 0.1, 0.1 + rise]
    training = [1.0, 0.9, 0.8, 0.7, 0.7 - fallen]
    bounds = [(rise, risen * 0.9), (rise, 3 * error), (rise, first), (fallen, FALLEN)]
    assume(all(abs(a - b) > 1e-6 for a, b in bounds))
    found = turn(scores, training, scale=0.9, loss=1.0, error=error, risen=risen)
    assert (found is not None) == (all(a > b for a, b in bounds) and rise > 0)
    if found is not None:
        assert found.lowest == 3
        assert found.risen == pytest.approx(rise)
        assert found.before - found.after == pytest.approx(fallen)


@given(losses, st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_units_and_offsets_of_the_score_change_nothing(valid, unit, shift):
    training = [1 - 0.9 * i / len(valid) for i in range(len(valid))]
    plain = turn(valid, training, scale=1.0, loss=1.0)
    moved = turn([shift + unit * y for y in valid], training, scale=unit, loss=1.0)
    least = max(RISEN, rebound(valid[: valid.index(min(valid)) + 1]))
    assume(abs(valid[-1] - min(valid) - least) > 1e-6)
    assert (plain is None) == (moved is None)


@given(losses)
def test_a_peak_right_after_the_start_is_no_noise(valid):
    """The first evaluations may be worse than the untrained network's."""
    assume(min(valid) < 1)
    high = run([3.0, *valid])
    found, plain = turn_of_run(high, high.evaluations), turn(
        [3.0, *valid], [1 - 0.9 * i / (1 + len(valid)) for i in range(1 + len(valid))],
        scale=1 - min(valid), loss=1.0,
    )  # fmt: skip
    if found is not None:
        assert plain is not None
        assert found.lowest == plain.lowest + 1


# ---- its three callers ---------------------------------------------------------------------------


@given(losses, st.floats(0, 0.9))
def test_the_search_and_the_advice_see_the_same_turn(valid, fall):
    """Of one curve without slices; the advice holds the rise against the training loss, too."""
    assume(min(valid) < 1)
    record = run(valid, fall)
    found = overfit(record)
    seen = turned([curve_of(record)], 1.0, 1.0, 1.0)
    if found is not None and valid[-1] < 1:
        assert valid[-1] - min(valid) > RISEN * (1 - min(valid))
        assert seen
    if seen and valid[-1] - min(valid) > RISEN * max(1 - min(valid), fall):
        assert found is not None


@given(losses, st.floats(0, 0.9), st.floats(0, 0.1))
def test_what_a_diagnosis_calls_overfitting_the_advice_calls_so_too(valid, fall, spread):
    record = run(valid, fall, spread)
    findings = overfitting(record, TASK)
    if findings and findings[0].step:
        found = overfit(record)
        assert found is not None
        assert (found.step, found.lowest, found.last) == (
            findings[0].step,
            findings[0].evidence["lowest"],
            findings[0].evidence["last"],
        )


def test_a_loss_that_only_rose_overfits_and_keeping_the_untrained_weights_is_no_advice():
    record = run([1.2, 1.5, 1.9])
    (finding,) = overfitting(record, TASK)
    assert finding.step == 0
    assert overfit(record) is None


@given(st.lists(st.sampled_from([math.nan, math.inf, 1.0, 0.5]), max_size=6))
def test_training_losses_that_were_skipped_count_for_nothing(kept):
    finite = [loss for loss in kept if math.isfinite(loss)]
    mean = mean_training_loss(kept, len(kept), 16 * max(1, len(kept)))
    assert mean == sum(finite) / len(finite) if finite else math.isnan(mean)


def test_a_run_whose_training_loss_is_unknown_has_not_turned():
    record = run([0.5, 0.2, 0.9])
    assert turn_of_run(record, record.evaluations) is not None
    assert turn_of_run(replace(record, series={}), record.evaluations) is None
