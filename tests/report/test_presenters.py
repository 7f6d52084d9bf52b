"""One report, drawn twice: what the terminal prints is what the page shows."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from etude.cli.terminal import draw as terminal
from etude.diagnosis.finding import Cause, Diagnosis, Finding, Verdict
from etude.errors import BadTypeError, BadValueError
from etude.measure.backprop import Backprop, LayerPass, ParameterUpdate
from etude.measure.coordinate_check import CoordinateCheck, LayerScale
from etude.measure.edge import Edge
from etude.measure.effect import Effect
from etude.measure.layer_rates import LayerRates, ParameterRate
from etude.measure.probe import Probe
from etude.measure.sensitivity import TOGETHER, Response, Sensitivity
from etude.measure.sharpness import Sharpness
from etude.recipe import Recipe
from etude.report import page, present
from etude.report.document import (
    DataTable,
    Fact,
    Listing,
    Report,
    Section,
    TableColumn,
    TableRow,
    Tone,
)
from etude.report.kinds import sensitivity as told_sensitivity
from etude.report.kinds import tuning as told_tuning
from etude.report.registry import known, presents
from etude.report.schedule_values import ScheduleValues
from etude.schedules import cosine, warmup
from etude.trials.phase import Phase
from etude.tuning.outcome import Outcome
from etude.tuning.transfer.rules import TransferRule
from etude.tuning.transfer.transfer import Transfer


class _Texts(HTMLParser):
    """Keeps the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.skipped = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.skipped = tag in ("script", "style")

    def handle_data(self, data):
        if not self.skipped:
            self.texts.append(data)


def plain(text: str) -> str:
    """Return a text without the spaces that only lay it out."""
    return re.sub(r"\s+", "", text)


def printed(report: Report) -> str:
    written = io.StringIO()
    console = Console(file=written, width=100_000, highlight=False, soft_wrap=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "out", console)
        terminal.draw(report)
    return plain(written.getvalue())


def shown(report: Report) -> str:
    return plain(" ".join(_Texts(page.render(report)).texts))


def texts_of(report: Report, *, detail: bool) -> list[str]:
    """Return every text of a report but the names of facts, which a terminal begins small."""
    found = [report.lede, report.notice]
    found += [text for fact in report.facts for text in (fact.name[1:], fact.value, fact.note)]
    for section in report.sections:
        if section.detail and not detail:
            continue
        for part in section.parts:
            if isinstance(part, str):
                found.append(part)
            elif isinstance(part, Listing):
                found += [part.title, part.text]
            elif isinstance(part, DataTable):
                rows = (*part.rows, *([part.total] if part.total else []))
                found += [part.caption, *(c.name for c in part.columns)]
                found += [cell for row in rows for cell in row.cells]
    return found


def probe(lr, **more):
    fields = {
        "lr": lr, "updates": 32, "diverged": False, "first": 2.3, "last": 0.7, "rise": 0.1,
        "rise_at": 7, "spiked": False, "norm": 1.5, "unstable": False, "reason": "",
    }  # fmt: skip
    return Probe(**{**fields, **more})


def edge():
    mark = Sharpness(0, 0.1, 11.5, -0.5, False, 11.5, 2.0, "", 64, "finite differences", 12, 900)
    probes = (
        probe(0.1), probe(0.2, spiked=True),
        probe(0.4, unstable=True, diverged=True, last=float("nan"), reason="NaN at update 3"),
    )  # fmt: skip
    return Edge("line", 0.1, 32, 64, 1.0, probes, 0.2, 0.4, (mark,), "2 + 2 μ", 1.25, 4096)


def sensitivity():
    responses = (
        Response("@linear", 3.0, (0.8, 0.79), (0.1, 0.11)),
        Response("*[forget]", 3.0, (0.9, float("inf")), (0.1, float("-inf"))),
    )
    trial = Response(TOGETHER, 1.0, (0.8, 0.7), (0.1, 0.2))
    return Sensitivity(
        "line", Recipe(lr=0.1, steps=20), 20, (0, 1), (0.9, 0.9), responses, {"@linear": 3.0},
        trial, 2.0,
    )  # fmt: skip


def transfer(confirmed):
    own, other = Recipe(lr=0.1, steps=20), Recipe(lr=0.25, steps=20)
    rule = TransferRule("batch size", 64, 128, 1.0, "Goyal et al. 2017", "It holds early.")
    return Transfer(
        "line", own, (rule,), (0.04, 0.1, 0.25), (0.9, 0.8, float("inf") if confirmed else 0.5),
        2.3, confirmed, own if confirmed else other, not confirmed, 16, 128, 0.4, 900,
    )  # fmt: skip


def check():
    layers = (
        LayerScale("layers.0", (0.5, 0.5), (0.1, 0.1), 0.0, 0.1),
        LayerScale("head", (0.5, 0.5), (0.1, 0.4), 2.0, 0.2),
    )
    return CoordinateCheck((64, 128), layers, 0.25, 3, 2)


def layerwise():
    rows = (
        ParameterRate("w[forget]", (4, 2), 8, "*[forget]", 3.0, 0.3, 1.0, "3", (), "input"),
        ParameterRate("w[rest]", (4, 2), 8, "–", 1.0, 0.1, 1.0, "1", (), "input"),
        ParameterRate("a", (2,), 2, "a × no_decay", 0.0, 0.0, 0.0, "0", ()),
        ParameterRate("b", (), 1, "b", 0.5, 0.05, 1.0, "linear(9)", (1.0, 0.5, 0.1), "output"),
    )
    return LayerRates("line", Recipe(lr=0.1, steps=9), 9, 2, rows, check())


def step(loss_after=0.4, unchained=""):
    layers = (
        LayerPass("input", "", (8, 3), 0.1, 1.0, 0.02, None, True),
        LayerPass("block.up", "Linear", (8, 4), 0.2, 0.5, 0.03, None, False),
        LayerPass("head", "Linear", (8, 2), 0.3, 0.25, 0.1, None if unchained else 0.2, True),
        LayerPass("idle", "Linear", (8, 2), 0.3, 0.25, None, None, False),
    )
    rows = (
        ParameterUpdate("head.weight", (2, 4), 1.5, 0.3, 0.03, 0.02),
        ParameterUpdate("head.bias", (2,), 0.0, None, 0.0, None),
    )
    return Backprop(
        "line", Recipe(lr=0.1, steps=1), 0, 8, 0.1, 0.5, loss_after, -0.11, layers, rows, unchained
    )


def schedule():
    shape = (warmup("10%") >> cosine()).over(200)
    return ScheduleValues(shape, 200, "epoch", 7, ("zero: it ends",), ("segment 2: other",))


OUTCOMES = [o for o in Outcome if o != Outcome.NO_BETTER_THAN_A_CONSTANT]
CASES = {
    **{f"tuning, {o}": lambda record, result, o=o: result(outcome=o) for o in OUTCOMES},
    "run": lambda record, result: record(),
    "diverged run": lambda record, result: record(status="diverged", reason="NaN at 3"),
    "stopped run": lambda record, result: record(status="stopped", length=9),
    "edge": lambda record, result: edge(),
    "sensitivity": lambda record, result: sensitivity(),
    "coordinate check": lambda record, result: check(),
    "layerwise": lambda record, result: layerwise(),
    "schedule": lambda record, result: schedule(),
    "step": lambda record, result: step(),
    "step that raises the loss": lambda record, result: step(0.6, "parts are called"),
    "transfer": lambda record, result: transfer(True),
    "transfer, not confirmed": lambda record, result: transfer(False),
}


@pytest.mark.parametrize("name", CASES)
def test_terminal_and_page_tell_the_same(name, record, result):
    told = present(CASES[name](record, result))
    in_terminal, on_page = printed(told), shown(told)
    for text in texts_of(told, detail=False):
        assert plain(text) in in_terminal, text
    for text in texts_of(told, detail=True):
        assert plain(text) in on_page, text
    assert plain(told.subject) in in_terminal
    assert plain(told.title) in on_page


words = st.text(st.characters(exclude_categories=("C", "Z")), max_size=12) | st.sampled_from(
    ["<b>x</b>", "[bold]x[/bold]", "&amp;", "{{ 7 * 7 }}", "{% if %}", "</script>", "\\[x]", "<!--"]
)


@st.composite
def tables(draw):
    columns = draw(
        st.lists(st.builds(TableColumn, words, *[st.booleans()] * 3), min_size=1, max_size=3)
    )
    cells = st.tuples(*[words] * len(columns))
    share = st.none() | st.floats(-1, 1)
    rows = st.builds(TableRow, cells, st.sampled_from(Tone), share, share)
    return DataTable(
        tuple(columns), tuple(draw(st.lists(rows, max_size=3))), draw(words),
        draw(st.none() | rows), draw(st.booleans()),
    )  # fmt: skip


reports = st.builds(
    Report,
    words, words, words, words, words,
    st.lists(st.builds(Fact, words, words, words, st.sampled_from(Tone)), max_size=2).map(tuple),
    st.lists(
        st.builds(Section, words, st.lists(words | tables(), max_size=2).map(tuple), st.booleans()),
        max_size=2,
    ).map(tuple),
)  # fmt: skip


@given(reports)
def test_whatever_stands_in_a_report_is_drawn_as_it_is(report):
    in_terminal, on_page = printed(report), shown(report)
    for text in texts_of(report, detail=False):
        assert plain(text) in in_terminal
    for text in texts_of(report, detail=True):
        assert plain(text) in on_page


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(BadValueError, match="a row has 1 cells for 2 columns"):
        DataTable((TableColumn("a"), TableColumn("b")), (TableRow(("x",)),))


def test_every_word_of_an_enumeration_is_told():
    assert set(told_tuning.PHASES) == set(Phase)
    assert set(told_tuning.WORTH) == set(Outcome) - {Outcome.NOTHING_TRAINS}
    assert set(told_sensitivity.VERDICTS) == set(Effect)
    assert set(terminal.STYLES) == set(Tone)


def test_a_kind_of_result_is_added_in_one_place():
    class Found:
        pass

    class Further(Found):
        pass

    with pytest.raises(
        BadTypeError, match=r"no report for a Found, only for .*: give the result of tune or train"
    ):
        present(Found())

    @presents(Found)
    def of_found(found, task=None):
        return Report("Kind", "line", "A title", "A lede.")

    assert present(Further()).title == "A title"
    assert "A title" in page.html(Further())
    assert {kind.__name__ for kind in known()} >= {
        "Backprop", "CoordinateCheck", "Edge", "LayerRates", "Record", "ScheduleValues",
        "Sensitivity", "Transfer", "TuneResult",
    }  # fmt: skip


def test_a_diagnosis_says_once_how_often_such_verdicts_were_right():
    right = "Of 17 verdicts at 50% to 60%, 9 were right."
    verdict = Verdict(True, Cause.LR_TOO_LOW, 0.55, ((Cause.LR_TOO_LOW, 0.55),), reliability=right)
    for findings in ((), (Finding(Cause.LR_TOO_LOW, "No layer moved."),)):
        told = present(Diagnosis(findings, seen=("20 updates",), verdict=verdict))
        assert shown(told).count(plain(right)) == printed(told).count(plain(right)) == 1
        assert "speak for it" not in told.lede
    healthy = Verdict(False, None, 0.95, reliability=right)
    assert right in present(Diagnosis((), seen=("20 updates",), verdict=healthy)).lede
    unsure = present(Diagnosis((), unseen=("No update was seen.",), verdict=healthy))
    assert unsure.lede == "No update was seen."


def test_a_whole_column_is_printed_whole_in_a_narrow_terminal():
    long = "a.name.of.eighty.letters" * 4
    part = DataTable((TableColumn("name", whole=True), TableColumn("x")), (TableRow((long, "1")),))
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "out", Console(file=written, width=40, soft_wrap=True))
        terminal.draw(Report("Kind", "line", "", "", sections=(Section("", (part,)),)))
    assert any(line.split() == [long, "1"] for line in written.getvalue().splitlines())


@pytest.mark.parametrize(
    ("length", "style"),
    [
        (0.5, "margin-left:50.0%;width:25.0%"),
        (-0.5, "margin-left:25.0%;width:25.0%"),
        (-1.0, "margin-left:0.0%;width:50.0%"),
    ],
)
def test_a_centred_bar_begins_at_the_line_in_the_middle(length, style):
    rows = (TableRow(("w",), bar=length),)
    told = Report("", "", "", "", sections=(Section("", (DataTable((TableColumn("a"),), rows,
                                                                   centred=True),)),))  # fmt: skip
    assert style in page.render(told)
    half = terminal.BAR // 2
    drawn = terminal.centred_bar(length)
    assert drawn.index("│") == half
    assert drawn.count("█") == round(half * abs(length))
    assert drawn.strip().startswith("│" if length > 0 else "█")


def test_a_page_without_figures_holds_no_library():
    assert len(page.html(edge())) < 30_000
