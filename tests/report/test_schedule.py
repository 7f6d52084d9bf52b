"""A schedule over a run: its values as rows and sentences, and its page."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from subprocess import run

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadValueError
from etude.report import embed, html, present
from etude.report.document import Drawing
from etude.report.figures import schedule_curve
from etude.report.schedule_values import EXACT, ScheduleValues, table
from etude.schedules import area, constant, cosine, parse


def values(text: str, length: int, **more) -> ScheduleValues:
    return ScheduleValues(parse(text).over(length), length, **more)


@given(st.integers(1, 400), st.integers(0, 60))
def test_rows_are_evenly_spread_with_both_ends(length, most):
    found = values("cosine()", length, most=most)
    steps = [step for step, _ in found.points()]
    assert (steps[0], steps[-1]) == (0, length)
    assert len(steps) == (length if most == 0 else min(most, length)) + 1
    gaps = {b - a for a, b in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 1
    shape = cosine(length)
    assert [float(row.cells[1]) for row in table(found).rows] == pytest.approx(
        [shape(step) for step in steps], abs=1e-8
    )


def test_the_report_tells_what_the_schedule_does():
    found = values("0.1 * (warmup('10%') >> cosine())", 100, unit="epoch")
    told = present(found)
    assert told.title == "0.1 * (warmup(10) >> cosine(90))"
    said = {fact.name: (fact.value, fact.note) for fact in told.facts}
    assert said["First value"] == ("0", "epoch 0")
    assert said["Highest value"] == ("0.1", "epoch 10")
    assert said["Value at the end"] == ("0", "epoch 100")
    assert f"area under the curve {area(found.schedule, 0, 100):.6g}" in told.lede


def test_faults_and_differences_are_told_where_they_were_asked_for():
    told = present(values("cosine()", 10, faults=("it ends",), differences=("it is longer",)))
    assert told.notice == "it ends."
    assert ("it is longer",) in [section.parts for section in told.sections]
    plain = present(values("cosine()", 10))
    assert plain.notice == ""
    assert len(plain.sections) == len(told.sections) - 1


@given(st.sampled_from(["constant(0)", "-1 * cosine()", "cosine()", "-0.5 + cosine()"]))
def test_every_value_is_within_the_axis(text):
    found = values(text, 50)
    told = present(found)
    (drawing,) = [p for s in told.sections for p in s.parts if isinstance(p, Drawing)]
    layout = embed.both(drawing.draw)["figure"]["layout"]
    low, high = layout["yaxis"]["range"]
    assert low < high
    assert all(low <= value <= high for _, value in found.points())
    assert layout["xaxis"]["title"]["text"] == "steps"


def test_the_curve_of_a_long_run_keeps_its_ends_and_its_peak_is_exact():
    found = values("warmup(777) >> cosine()", 100_000)
    info = schedule_curve.of_values(found)
    assert len(info.rates.steps) <= 1_000
    assert (info.rates.steps[0], info.rates.steps[-1]) == (0, 100_000)
    assert found.highest() == (777, 1.0)
    assert ("1", "step 777") in [(fact.value, fact.note) for fact in present(found).facts]


def test_a_highest_value_that_was_not_looked_for_is_not_told():
    names = [
        [fact.name for fact in present(values("cosine()", length, most=3)).facts]
        for length in (EXACT, EXACT + 1)
    ]
    assert names == [
        ["First value", "Highest value", "Value at the end"],
        ["First value", "Value at the end"],
    ]


def test_values_that_are_not_finite_are_refused():
    wild = (1e308 * constant() * 1e308).over(10)
    assert math.isinf(wild(3))
    with pytest.raises(BadValueError, match=r"not finite: \.clip\(\) it to draw it"):
        html(ScheduleValues(wild, 10))


def test_the_text_of_a_schedule_is_text():
    found = values("cosine()", 10, faults=("<script>",))
    assert "&lt;script&gt;" in html(found)


def test_rows_for_the_terminal_load_no_torch():
    code = (
        "from etude.report.schedule_values import ScheduleValues, table\n"
        "from etude.schedules import cosine\n"
        "assert table(ScheduleValues(cosine(10), 10)).rows\n"
        "import etude.cli.terminal.draw, sys; print('torch' in sys.modules)"
    )
    said = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
