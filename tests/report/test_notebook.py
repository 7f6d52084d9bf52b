"""Results in a notebook: the page, single figures and a summary are those of the report."""

from __future__ import annotations

import pytest
from plotly.graph_objects import Figure
from torch.nn.functional import mse_loss

import etude
from etude import Recipe
from etude.errors import BadValueError, UnknownNameError
from etude.methods.compare import compare_methods
from etude.methods.grid import grid
from etude.methods.range_test import range_test
from etude.report import present
from etude.report.document import Drawing
from etude.report.notebook import figures
from etude.shows_itself import ShowsItself
from tests.helpers import data
from tests.report.conftest import make_result

RECIPE = Recipe(optimizer="sgd", batch_size=16, steps=40)


def task() -> etude.Task:
    import torch

    x, y = data()
    target = y[:, None].float()
    return etude.Task(
        lambda: torch.nn.Linear(6, 1), (x, target), valid=(x, target), loss=mse_loss, name="<i>line"
    )


@pytest.fixture(scope="module")
def results() -> dict[str, ShowsItself]:
    return {
        "tuning": make_result(),
        "grid": grid(task(), RECIPE, [0.01, 0.1], engine="loop", progress=False),
        "ramp": range_test(task(), RECIPE, updates=40, progress=False),
    }


@pytest.mark.parametrize("name", ["tuning", "grid", "ramp"])
def test_figures_and_page_are_those_of_the_report(results, name, tmp_path):
    result = results[name]
    drawn = [
        part
        for section in present(result).sections
        for part in section.parts
        if isinstance(part, Drawing)
    ]
    assert len(figures(result)) == len(drawn)
    for kind in figures(result):
        assert isinstance(result.plot(kind), Figure)
    first = next(iter(figures(result)))
    assert result.plot().to_json() == result.plot(first).to_json()
    assert result.plot(dark=True).to_json() != result.plot().to_json()
    with pytest.raises(UnknownNameError, match="figure of this result 'nothing'"):
        result.plot("nothing")
    page = result.report()
    assert page.html == etude.report.html(result)
    assert result.report(tmp_path / "page.html").read_text(encoding="utf-8") == page.html
    assert "<iframe sandbox" in page._repr_html_()


@pytest.mark.parametrize("name", ["tuning", "grid", "ramp"])
def test_a_summary_has_the_facts_and_no_script(results, name):
    shown = results[name]._repr_html_()
    report = present(results[name])
    assert "<script" not in shown
    assert "<i>line" not in shown
    for fact in report.facts:
        assert fact.name in shown
    assert report.lede in results[name].summary()


def test_a_result_without_a_figure_says_so():
    found = compare_methods(task(), RECIPE, methods=["default"], engine="loop", progress=False)
    with pytest.raises(BadValueError, match="has no figure"):
        found.plot()
    assert "the recipe" in found._repr_html_()
