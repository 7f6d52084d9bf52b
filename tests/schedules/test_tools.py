"""Lint, diff, area and pictures."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import BadTypeError, BadValueError
from etude.schedules import (
    area,
    cosine,
    diff,
    linear,
    lint,
    parse,
    plateau,
    preview,
    svg,
    warmup,
)
from etude.schedules.testing import schedules


@pytest.mark.parametrize(
    ("text", "run", "codes"),
    [
        ("warmup(100) >> cosine(900)", 1_000, []),
        ("warmup('10%') >> cosine()", 1_000, []),
        ("warmup(100) >> plateau()", 1_000, []),
        ("warmup(100) >> 0.5 * cosine(900)", 1_000, ["jump"]),
        ("(warmup(100) >> 0.5 * cosine(400)).repeat(2)", 1_000, ["jump", "jump", "zero"]),
        ("(warmup(10) >> 0.5 * cosine(40)).stretch(20)", 1_000, ["jump"]),
        ("(warmup(10) >> 0.5 * cosine(90)).fit(1_000)", 1_000, ["jump"]),
        ("(warmup(10) >> 0.5 * cosine(80)).shift(10)", 100, ["jump", "zero"]),
        ("cosine(900) - 0.5", 900, ["negative"]),
        ("warmup(10) >> linear(500)", 1_000, ["zero", "ends-early"]),
        ("constant(0.0)", 100, ["zero"]),
        ("warmup(2_000) >> cosine()", 1_000, ["unbound"]),
        ("warmup(2_000)", 1_000, ["warmup-too-long", "still-high"]),
        ("warmup(100).take(50) >> cosine(50)", 100, ["jump", "warmup-too-long"]),
        ("cosine(1_000) >> linear(50)", 1_000, ["unreachable"]),
        ("multi_step((30, 2_000), 0.01)", 1_000, ["unreachable"]),
        ("multi_step((30, 90), 0.1).take(60) >> 0.1 * linear(40)", 100, ["unreachable"]),
        ("cosine(1_000) * piecewise_constant((1_500,), (1.0, 2.0))", 1_000, ["unreachable"]),
        ("constant()", 100, ["still-high"]),
        ("warmup('5%') >> cosine()", 10, ["warmup-too-short"]),
        ("warmup('4%') >> cosine()", 10, ["warmup-too-short"]),
        ("warmup(1, start=0.1) >> cosine()", 10, ["warmup-too-short"]),
        ("(warmup(1) >> cosine(9)).shift(-1)", 9, []),
        ("(warmup(1) >> cosine(9)).stretch(2)", 20, []),
        ("(warmup(3) >> cosine(9)).fit(4)", 4, ["warmup-too-short", "still-high"]),
        ("(warmup(1) >> cosine(9)).repeat(2)", 20, ["warmup-too-short", "zero"]),
        ("wsd(1, 5, 10)", 10, ["warmup-too-short", "still-high"]),
        ("warmup(2) >> cosine()", 10, []),
        ("linear(1, 0.0, 1.0) >> cosine()", 10, ["zero"]),
        ("noam(1)", 10, ["still-high"]),
        ("warmup(10) >> cosine()", 1, ["unbound"]),
        ("0.0 * cosine(5)", 1, ["zero"]),
        ("exponential(10.0)", 1_000, ["not-finite"]),
        ("cosine('5 epochs')", 1_000, ["unbound"]),
        ("warmup(5_000) >> cosine(95_000)", 100_000, []),
        ("warmup(5_001) >> 0.5 * cosine(94_999)", 100_000, ["jump"]),
    ],
)
def test_lint_finds_the_mistake_and_nothing_else(text: str, run: int, codes: list[str]) -> None:
    found = lint(parse(text), run)
    assert sorted(f.code for f in found) == sorted(codes)
    assert all(str(f).startswith(f"{f.code}: ") for f in found)


def test_lint_names_value_place_and_fix() -> None:
    (jump,) = lint(warmup(100) >> 0.5 * cosine(900), 1_000)
    assert jump.step == 100
    assert "from 1 to 0.5 at step 100: scale" in jump.message
    (short,) = lint(parse("warmup('5%') >> cosine()"), 10)
    assert short.step == 0
    assert short.message == (
        "warmup(1) takes 1 update: the first is at 0, which changes nothing, and the next at the "
        "full rate; give it at least 2 updates, or leave it out"
    )
    (high,) = lint(linear(1_000, end=0.5), 1_000)
    assert "50% of the peak" in high.message
    with pytest.raises(BadTypeError, match="must be a schedule"):
        lint("cosine(5)", 5)  # type: ignore[arg-type]
    with pytest.raises(BadValueError, match="steps is 0"):
        lint(cosine(5), 0)


@given(schedules(2), st.integers(1, 500))
def test_lint_has_an_answer_for_everything(s: object, run: int) -> None:
    for found in lint(s, run):  # type: ignore[arg-type]
        assert str(found) == f"{found.code}: {found.message}"
        assert found.message


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ("cosine(5)", "cosine(5)", []),
        ("cosine(5)", "cosine(6)", ["length of cosine is 6, was 5"]),
        ("cosine(5)", "linear(5)", ["linear(5) instead of cosine(5)"]),
        ("cosine(5)", "0.1 * cosine(5)", ["0.1 * cosine(5) instead of cosine(5)"]),
        ("0.1 * cosine(5)", "0.2 * cosine(5)", ["factor of scale is 0.2, was 0.1"]),
        ("0.1 * cosine(5)", "0.1 * cosine(6)", ["length of cosine is 6, was 5"]),
        (
            "warmup(5) >> cosine(5)",
            "warmup(5) >> constant(length=3) >> cosine(5)",
            ["segment 2 is new: constant(length=3)"],
        ),
        (
            "warmup(5) >> constant(length=3) >> cosine(5)",
            "warmup(6) >> cosine(5)",
            ["segment 1: length of warmup is 6, was 5", "segment 2 is gone: constant(length=3)"],
        ),
        (
            "cosine(5) * warmup(2)",
            "cosine(5) * warmup(3)",
            ["factor 2: length of warmup is 3, was 2"],
        ),
        (
            "cosine(5) + warmup(2)",
            "cosine(5) + warmup(3)",
            ["term 2: length of warmup is 3, was 2"],
        ),
        ("plateau(cooldown=1)", "plateau(cooldown=2)", ["cooldown of plateau is 2, was 1"]),
        ("warmup('5%')", "warmup('6%')", ["length of warmup is '6%', was '5%'"]),
    ],
)
def test_diff_says_what_changed(before: str, after: str, lines: list[str]) -> None:
    found = diff(parse(before), parse(after))
    assert [line for line in found if not line.startswith(("values", "all values"))] == lines


def test_diff_says_where_values_part() -> None:
    assert diff(cosine(10), cosine(10, floor=0.5))[-1] == (
        "values differ most at step 10: 0.5, was 0"
    )
    assert "the same" in diff(plateau(), plateau(patience=3))[-1]
    with pytest.raises(BadTypeError, match="is not a schedule"):
        diff(cosine(5), 5)  # type: ignore[arg-type]


@given(schedules(2), schedules(2))
def test_diff_is_empty_only_for_equals(a: object, b: object) -> None:
    assert bool(diff(a, b)) == (a != b)  # type: ignore[arg-type]


@given(schedules(2), st.integers(0, 100), st.integers(0, 200), st.integers(0, 200))
def test_area_is_the_sum_and_adds_up(s: object, start: int, more: int, yet: int) -> None:
    middle, stop = start + more, start + more + yet
    whole = area(s, start, stop)  # type: ignore[arg-type]
    assert whole == pytest.approx(
        area(s, start, middle) + area(s, middle, stop),  # type: ignore[arg-type]
        rel=1e-12,
        abs=1e-9,
    )


def test_area_of_long_runs() -> None:
    assert area(linear(10), 0, 10) == 5.5
    n = 2_500_000
    assert area(linear(n), 0, n) == pytest.approx((n + 1) / 2, rel=1e-12)
    assert area(cosine(n), 0, n) == pytest.approx((n + 1) / 2, rel=1e-12)
    with pytest.raises(BadValueError, match="stop is 3; it must be at least start"):
        area(linear(5), 4, 3)
    with pytest.raises(BadValueError, match="at most"):
        area(linear(5), 0, 10**10)


def test_preview_keeps_ends_and_extremes() -> None:
    s = parse("restarts(1_000, height_mult=0.9)")
    seen = preview(s, 100_000, points=300)
    assert len(seen.steps) <= 300
    assert (seen.steps[0], seen.steps[-1]) == (0, 100_000)
    assert seen.values == tuple(s(t) for t in seen.steps)
    assert max(seen.values) == 1.0
    assert preview(cosine(10)).steps == tuple(range(11))
    assert preview(cosine(), 10).values[-1] == 0.0
    with pytest.raises(BadValueError, match="points is 1"):
        preview(cosine(10), points=1)


@given(schedules(2))
def test_every_bound_schedule_has_a_picture(s: object) -> None:
    root = ElementTree.fromstring(svg(s))  # type: ignore[arg-type]
    points = root.find("{*}polyline").get("points").split()  # type: ignore[union-attr]
    for point in points:
        x, y = map(float, point.split(","))
        assert 0 <= x <= 360
        assert 0 <= y <= 120


def test_a_notebook_shows_the_picture_or_the_reason() -> None:
    assert "<svg" in cosine(100)._repr_html_()
    assert "&#x27;5 epochs&#x27;" in cosine("5 epochs")._repr_html_()
    assert "steps_per_epoch" in cosine("5 epochs")._repr_html_()
    assert "not finite" in parse("exponential(10.0)")._repr_html_()
    assert math.isinf(parse("exponential(10.0)")(10_000))
