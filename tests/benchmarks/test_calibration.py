"""What the tuner says, held against the tables of fresh tasks: nothing is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import calibration, evidence, untried
from benchmarks.calibration import NEAR, Said, missed
from benchmarks.fresh import OPEN, ROWS, absent
from benchmarks.fresh_regret import table_of
from benchmarks.replayed import replay, slices
from etude.tuning.pause_error import PAUSE_ERROR

LATE = [name for name, row in ROWS.items() if row.late]
FAR = 0.05
"""Share of the drop beyond which an answer is wrong."""


def said(name: str, seed: int, budget: float) -> Said:
    if why := absent(name):
        pytest.skip(why)
    return calibration.said(name, seed, budget)


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", LATE)
def test_on_a_task_that_learns_late_no_answer_is_wrong_and_sure(name, budget):
    for seed in evidence.SEEDS:
        row = said(name, seed, budget)
        if row.gap > FAR:
            assert row.outcome != "found" or row.notes, row


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", LATE)
def test_a_result_at_chance_is_never_found(name, budget):
    constant = table_of(name).constant
    for seed in evidence.SEEDS:
        if why := absent(name):
            pytest.skip(why)
        found, best, _ = replay(name, seed, budget)
        last = best.last()
        if constant is not None and (last is None or last.loss >= constant):
            assert found.outcome != "found"


@pytest.mark.parametrize("name", ["names-gru", "pictures-denoise", "modular-sum"])
def test_the_mean_of_the_slices_is_the_loss(name):
    """Of tasks whose slices weigh the same."""
    kept = slices(name)[..., 0, :].mean(-1)
    for place, share in enumerate(evidence.PAUSES):
        losses = table_of(name).losses[:, :, table_of(name).look(share)]
        sound = np.isfinite(losses) & np.isfinite(kept[place])
        assert kept[place][sound] == pytest.approx(losses[sound], rel=1e-4)


@pytest.mark.parametrize(("share", "error"), PAUSE_ERROR[:-1])
def test_the_error_of_a_pause_is_what_the_open_half_shows(share, error):
    assert calibration.measured(OPEN, share) == pytest.approx(error, rel=0.15)


def test_a_range_misses_by_the_distance_in_decades():
    assert missed((0.01, 0.1), 0.03) == 0
    assert missed((0.01, 0.1), 1.0) == pytest.approx(1)
    assert missed((0.01, 0.1), 0.001) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1.5, 2.0, 3.0])
def test_what_is_said_holds_as_often_as_it_says(budget):
    names = [name for name in OPEN if not absent(name)]
    rows = [calibration.said(n, s, budget) for n in names for s in evidence.SEEDS]
    assert sum(row.covers for row in rows) >= 0.9 * len(rows)
    if budget >= 3:
        found = [row for row in rows if row.outcome == "found"]
        assert sum(row.gap <= NEAR for row in found) >= 0.9 * len(found)
    for low in (0.0, 0.6, 0.8):
        sure = [row for row in rows if row.confidence is not None and row.confidence >= low]
        stated = math.fsum(row.confidence for row in sure)
        assert sum(row.gap <= NEAR for row in sure) >= stated - math.sqrt(len(sure)) / 2


@pytest.mark.slow
def test_the_risks_of_rates_that_were_left_or_not_tried_are_those_that_were_measured():
    if any(absent(name) for name in OPEN):
        pytest.skip("the tables of some tasks cannot be replayed here")
    for case, (held, seen) in untried.counted((1.5, 2.0)).items():
        stored = untried.stored()[case]
        # Half of the budgets that the page measures: within two standard errors, and a point.
        error = 2 * math.sqrt(stored * (1 - stored) / seen) + 0.01 if seen else 1.0
        assert not seen or abs(held / seen - stored) <= error, (case, held, seen)
