"""The rate of every parameter over a run, and how it is told."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude import tasks
from etude.layerwise.planning import plan
from etude.measure.coordinate_check import CoordinateCheck, LayerScale
from etude.measure.layer_rates import POINTS, LayerRates, layer_rates, parameter_rates
from etude.recipe import Recipe
from etude.report import present
from etude.report.document import DataTable, Drawing
from etude.report.figures import multiplier_curves
from etude.report.kinds.layerwise import span
from etude.schedules import parse
from etude.tasks.models import lstm, mlp


def rates(rules: object, network: object, length: int = 100) -> LayerRates:
    shape = parse("constant()").over(length)
    laid = plan(rules, network).over(length)
    rows = parameter_rates(laid, 0.1, shape, length)
    return LayerRates("line", Recipe(lr=0.1, steps=length), length, laid.depths, tuple(rows))


def table(found: LayerRates) -> DataTable:
    return present(found).sections[0].parts[0]


def test_rows_hold_the_rate_where_it_is_largest() -> None:
    laid = plan(
        {"*[forget]": 3.0, "head.weight": "linear()", "head.bias": 0.0},
        lstm(inputs=2, outputs=3, width=4),
    ).over(100)
    shape = parse("warmup(50) >> cosine()").over(100)
    found = {row.name: row for row in parameter_rates(laid, 0.01, shape, 100)}
    gate = found["layers.0.cell.weight_hh_l0[forget]"]
    assert (gate.multiplier, gate.curve, gate.text, gate.size) == (3.0, (), "3", 16)
    assert gate.rate == pytest.approx(0.03)
    assert gate.shape == (16, 4)
    head = found["head.weight"]
    rates = [0.01 * shape(t) * (1 - t / 100) for t in range(100)]
    assert head.rate == pytest.approx(max(rates))
    assert head.multiplier == pytest.approx(1 - rates.index(max(rates)) / 100)
    assert head.curve[0] == 1.0
    assert head.curve[-1] == pytest.approx(0.01)
    assert found["head.bias"].rate == 0.0


def test_the_rates_are_those_of_the_optimizers_groups() -> None:
    task = tasks.get("diabetes-mlp", width=4)
    recipe = Recipe(lr=0.01, lr_mult="decay(0.5)", schedule="constant()", steps=10)
    found = layer_rates(task, recipe)
    assert [row.rate for row in found.rows if row.name.startswith("head")] == [0.01, 0.01]
    assert found.rows[0].rate == 0.01 * 0.5 ** (found.layers - 1)
    assert found.plain()["lr_mult"] == "decay(0.5)"


def test_bars_stand_on_the_side_of_the_line_that_they_belong_to() -> None:
    network = mlp(inputs=2, outputs=3, width=4)
    found = rates({"layers.0": 4.0, "layers.1": 0.25, "head": 0.0}, network)
    assert span(found.rows) == pytest.approx(math.log10(4))
    drawn = table(found)
    assert drawn.centred
    assert [row.bar for row in drawn.rows] == [1.0, 1.0, -1.0, -1.0, None, None]
    assert [row.cells[3] for row in drawn.rows] == ["4", "4", "0.25", "0.25", "frozen", "frozen"]


@given(st.lists(st.sampled_from([0.0, 0.01, 0.5, 1.0, 3.0, 1e6]), min_size=3, max_size=3))
def test_the_longest_bar_is_that_of_the_multiplier_furthest_from_one(factors) -> None:
    names = ("layers.0", "layers.1", "head")
    network = mlp(inputs=2, outputs=3, width=4)
    drawn = table(rates(dict(zip(names, factors, strict=True)), network))
    bars = [abs(row.bar) for row in drawn.rows if row.bar is not None]
    assert all(bar <= 1 for bar in bars)
    far = max((abs(math.log10(f)) for f in factors if f > 0), default=0)
    assert drawn.barred == (far > 0)
    if far > math.log10(2):
        assert max(bars) == 1.0


@pytest.mark.parametrize("policy", ["decay(0.5)", "no_decay()"])
def test_no_cell_of_the_table_is_empty(policy: str) -> None:
    drawn = table(rates(policy, mlp(inputs=2, outputs=3, width=4)))
    assert all(cell for row in drawn.rows for cell in row.cells)
    heads = [column.name for column in drawn.columns]
    assert ("weight decay ×" in heads) == (policy == "no_decay()")


def test_parameters_with_the_same_multiplier_share_a_curve() -> None:
    rules = {"*[forget]": "linear()", "head": "cosine()"}
    found = rates(rules, lstm(inputs=2, outputs=3, width=4), length=1000)
    drawings = [p for s in present(found).sections for p in s.parts if isinstance(p, Drawing)]
    assert len(drawings) == 1
    info = multiplier_curves.info(found)
    assert [len(curve.names) for curve in info.curves] == [4, 2]
    assert info.curves[1].name == "head.weight and 1 more"
    assert (info.steps[0], info.steps[-1], len(info.steps)) == (0, 999, POINTS)
    shape = parse("linear()").over(1000)
    assert info.curves[0].values == pytest.approx([shape(step) for step in info.steps])
    figure = multiplier_curves.draw(info)
    assert [trace.name for trace in figure.data] == [curve.name for curve in info.curves]


def test_rates_that_do_not_move_need_no_figure() -> None:
    told = present(rates({"head": 2.0}, mlp(inputs=2, outputs=3, width=4)))
    assert not [p for s in told.sections for p in s.parts if isinstance(p, Drawing)]


@pytest.mark.parametrize(
    ("rules", "title"),
    [
        ({"*": 0.0}, "line: every rate is 0"),
        ({"*": 2.0}, "line: a peak rate of 0.2 for every parameter"),
        ({"head": 2.0, "*": 1.0}, "line: peak rates from 0.1 to 0.2"),
        ({"head": 0.0, "*": 1.0}, "line: a peak rate of 0.1, parts frozen"),
    ],
)
def test_the_title_says_between_which_rates(rules: dict, title: str) -> None:
    told = present(rates(rules, mlp(inputs=2, outputs=3, width=4)))
    assert told.title == title
    frozen = [fact for fact in told.facts if fact.name == "Frozen"]
    assert bool(frozen) == (0.0 in rules.values())


def test_a_check_is_told_beside_the_rates() -> None:
    layers = (
        LayerScale("body", (1, 1), (1, 1), 0.0, 0.1),
        LayerScale("head", (1, 1), (1, 4), 2, 0),
    )
    failed_check = CoordinateCheck((8, 16), layers, 0.25, 3, 2)
    found = rates({"head": 2.0}, mlp(inputs=2, outputs=3, width=4))
    told = present(dataclasses.replace(found, check=failed_check))
    assert told.facts[-1].value == "failed"
    assert told.sections[-1].parts[0].startswith("Coordinate check failed at head: ")
    assert present(failed_check).sections[-1] == told.sections[-1]
