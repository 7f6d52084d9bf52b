"""What the tuner says, held against the tables of fresh tasks: nothing is trained."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import calibration, evidence
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


KNOWN = pytest.mark.xfail(
    strict=True,
    reason="at 1.5 runs seed 0 is 'found' with 5.7% missed and no note, though its range holds "
    "the best rate",
)
CASES = [
    pytest.param(name, budget, marks=KNOWN if (name, budget) == ("segment-deep-tanh", 1.5) else ())
    for name in LATE
    for budget in (1.5, 3.0)
]


@pytest.mark.parametrize(("name", "budget"), CASES)
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
def test_found_at_three_runs_is_near_the_best_and_the_range_holds_it():
    names = [name for name in OPEN if not absent(name)]
    rows = [calibration.said(n, s, 3.0) for n in names for s in evidence.SEEDS]
    found = [row for row in rows if row.outcome == "found"]
    assert sum(row.gap <= NEAR for row in found) >= 0.9 * len(found)
    assert sum(row.covers for row in rows) >= 0.9 * len(rows)
    # A sure answer is no less often right than it says.
    sure = [row for row in rows if row.confidence is not None and row.confidence > 0.75]
    stated = math.fsum(row.confidence for row in sure)
    assert sum(row.first for row in sure) >= stated - 2 * math.sqrt(len(sure)) / 2
