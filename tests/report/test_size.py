"""A report's file stays small: the library that draws it, and the values that it holds."""

from __future__ import annotations

import json
import math
import re
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude import report
from etude.report import embed, templates
from etude.report.document import Drawing
from etude.tuning.trial_summary import TrialSummary

SOURCE = Path(report.__file__).parent
VENDOR = SOURCE / "vendor" / "plotly-basic"
MOST = 1_500_000
"""Bytes of a report's file."""


@pytest.mark.parametrize(("rates", "updates", "probes"), [(8, 3_000, 0), (40, 30_000, 6)])
def test_a_tunings_page_is_small_however_long_the_run(record, result, rates, updates, probes):
    noise = np.random.default_rng(0).lognormal(size=(updates, probes + 1))
    series = {f"probe{i}": noise[:, i] for i in range(probes)}
    evaluations = tuple((s, 2.3 / (1 + s), 0.5) for s in range(0, updates + 1, updates // 20))
    kept = record(noise[:, -1], evaluations=evaluations, **series)
    rated = [10 ** (-4 + 4 * i / rates) for i in range(rates)]
    trials = tuple(
        TrialSummary(lr, replace(kept, recipe=kept.recipe.replace(lr=lr)), False, False)
        for lr in rated
    )
    best = result(trials, lr=rated[0], tied=(rated[0], rated[0]), stable_below=None)
    size = len(report.html(best).encode())
    assert VENDOR.joinpath("plotly-basic.min.js").stat().st_size < size <= MOST


def test_the_bundle_is_the_one_that_its_readme_names_with_its_licence():
    said = (VENDOR / "README.md").read_text()
    version = re.search(r"version (\d+\.\d+\.\d+)", said)[1]
    assert f"* plotly.js (basic - minified) v{version}\n" in templates.plotly()[:200]
    licence = (VENDOR / "LICENSE").read_text()
    assert "MIT License" in licence
    assert "Plotly" in licence


def test_every_trace_of_every_figure_is_in_the_basic_bundle(result):
    sections = report.present(result()).sections
    drawings = [part for s in sections for part in s.parts if isinstance(part, Drawing)]
    assert len(drawings) == 4
    for drawing in drawings:
        assert {t["type"] for t in embed.both(drawing.draw)["figure"]["data"]} <= {
            "scatter", "bar", "pie",
        }  # fmt: skip


def test_figures_hold_plain_lists_whatever_plotly_makes_of_arrays(record, result):
    """plotly 6 and newer write a NumPy array as packed bytes, whose form goes by its version."""
    found = (result(), record(np.linspace(2, 1, 3_000)))
    for drawing in (p for f in found for s in report.present(f).sections for p in s.parts):
        if isinstance(drawing, Drawing):
            for trace in embed.both(drawing.draw)["figure"]["data"]:
                assert all(isinstance(trace[axis], list) for axis in "xy")


def test_templates_and_bundle_are_in_the_package():
    project = tomllib.loads((SOURCE.parents[2] / "pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["etude"]
    data = [p for folder in ("templates", "vendor") for p in (SOURCE / folder).rglob("*")]
    names = [p.relative_to(SOURCE.parent).as_posix() for p in data if p.is_file()]
    assert len(names) >= 7
    assert all(any(fnmatch(name, glob) for glob in globs) for name in names)


finite = st.floats(-1e300, 1e300)


@given(st.lists(finite | st.integers() | st.none(), max_size=20))
def test_a_rounded_value_is_off_by_less_than_can_be_seen(values):
    rounded = embed.rounded(values)
    assert len(rounded) == len(values)
    floats = [v for v in values if isinstance(v, float)]
    span = max(floats, default=0) - min(floats, default=0)
    for value, mine in zip(values, rounded, strict=True):
        if not isinstance(value, float):
            assert mine is value
            continue
        assert abs(mine - value) <= 5.0001e-5 * abs(value)
        if 0 < span < math.inf:
            assert abs(mine - value) <= 5.0001e-5 * span + 1e-15 * abs(value)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=50))
def test_rounded_values_take_few_characters(values):
    if max(values) - min(values) > 0.1:
        assert all(len(json.dumps(v)) <= 9 for v in embed.rounded(values))
