"""A search begins where the benchmark found a row's best rates."""

from __future__ import annotations

import json

import pytest

from benchmarks.optimizers import CONTROL, RESULTS, fitted_centre
from etude.optimizers import ROWS

MEASURED = json.loads((RESULTS / "optimizers.json").read_text())["centres"]


@pytest.mark.parametrize("name", sorted(set(MEASURED) - {CONTROL}))
def test_a_row_begins_where_its_best_rates_were_measured(name):
    assert ROWS[name].centre == fitted_centre(MEASURED, name)


def test_a_centre_is_that_of_adamw_plus_the_mean_difference():
    tasks = MEASURED[CONTROL]["tasks"]
    moved = {task: rate + 0.4 for task, rate in tasks.items()}
    made = {**MEASURED, "adam": {**MEASURED[CONTROL], "tasks": moved}}
    assert fitted_centre(made, "adam") == pytest.approx(ROWS[CONTROL].centre + 0.4)
