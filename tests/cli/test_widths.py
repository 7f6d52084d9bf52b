"""Every width of a terminal: help, tables and code, and what goes to a file."""

from __future__ import annotations

import io
import re
from itertools import pairwise

import pytest

from etude.cli.terminal import console, draw
from etude.report.document import (
    DataTable,
    Fact,
    Listing,
    Report,
    Section,
    TableColumn,
    TableRow,
)
from tests.cli.test_every_verb import ALL, each

FRAME = "╭"
"""Begins the first table of `--help`."""

SHORTENED = re.compile(r"(?<!VALUE)(?<!=)…")
"""A sign of a word that was cut; some help texts have one of their own."""

TABLE = DataTable(
    (
        TableColumn("way"),
        TableColumn("kind", minor=True),
        TableColumn("missed", number=True),
    ),
    (
        TableRow(("grid by cross-validation", "of the textbook", "12%"), bar=1.0),
        TableRow(("tuner", "of Etude", "3%"), bar=0.25),
    ),
    "What each missed.",
    total=TableRow(("altogether", "of both", "15%")),
    scale="Bars: the share.",
)

REPORT = Report(
    kind="Ways",
    subject="digits",
    title="Ways",
    lede="A sentence that is longer than a narrow terminal, and is wrapped by the terminal itself.",
    notice="Read this first.",
    facts=(
        Fact("Rate", "0.1", "a note of a good many words, to see where such a note is wrapped"),
    ),
    sections=(
        Section("Side by side", (TABLE,)),
        Section("Code", (Listing("code", "Code", "name = 'a' * 2  # why\n" + "x" * 70, "python"),)),
    ),
)


@pytest.fixture
def drawn(monkeypatch):
    """Return what the report looks like on a terminal of a width, or in a file."""

    def show(columns: int | None, **environment: str) -> str:
        for name, value in {"TERM": "xterm-256color", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", str(columns or 80))
        written = io.StringIO()
        shown = console.ResultConsole(
            file=written, highlight=False, soft_wrap=True, force_terminal=columns is not None
        )
        monkeypatch.setattr(draw, "out", shown)
        draw.draw(REPORT)
        return written.getvalue()

    return show


@each
def test_a_wide_terminal_fills_the_lines_of_a_paragraph(etude, path):
    prose = etude(*path, "--help").out.partition(FRAME)[0]
    for line, after in pairwise(line.strip() for line in prose.splitlines()):
        if line and after:
            assert len(line) + 1 + len(after.split()[0]) > 196, line


@each
@pytest.mark.parametrize("columns", ["50", "80"])
def test_help_cuts_no_word(etude, monkeypatch, path, columns):
    monkeypatch.setenv("COLUMNS", columns)
    said = etude(*path, "--help").out
    assert not SHORTENED.search(said)
    for option in ALL[path].params:
        for name in option.opts if not option.hidden else ():
            assert name.startswith("-") is False or name in said
    assert "[bold]" not in said


def test_narrow_help_keeps_the_lines_of_a_plan(etude, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert '  tasks = ["digits-mlp", "digits-cnn"]\n' in etude("study", "--help").out
    assert FRAME not in etude("--help").out


@pytest.mark.parametrize("environment", [{}, {"TERM": "dumb"}], ids=["terminal", "dumb"])
@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_a_table_says_no_less_on_a_narrow_terminal(drawn, columns, environment):
    said = drawn(columns, **environment)
    text = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert "…" not in text
    words = "".join(text.split())
    prose = text.partition("What each missed")[0].splitlines()
    assert max(map(len, prose)) <= columns
    assert REPORT.lede in " ".join(text.split())
    for text_of in ("way", "missed", "altogether", "12%", "3%", "Note:Readthisfirst."):
        assert text_of in words
    assert "grid by" in text
    # What a narrow terminal has no room for is named.
    assert ("ofthetextbook" in words) or ("showsmorecolumns:kind" in words)
    assert ("Bars: the share." in text) == ("█" in text)


def test_a_table_fits_into_80_columns(drawn):
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn(80)).splitlines()
    (row,) = [line for line in lines if "grid by cross-validation" in line]
    assert "12%" in row
    assert len(row.rstrip()) <= 80


def test_a_file_gets_everything_and_no_control_character(drawn):
    said = drawn(None)
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said) is None
    assert "of the textbook" in said
    assert "Bars: the share." in said
    assert REPORT.lede in said
    assert f"0.1  {REPORT.facts[0].note}" in said
    assert max(map(len, said.splitlines())) < 200


def test_without_colour_nothing_is_coloured(drawn):
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", drawn(80, NO_COLOR="1")) is None


def test_code_has_the_colours_of_the_terminal(drawn):
    """Fixed colours chosen for a dark background cannot be read on a light one."""
    said = drawn(80)
    assert "\x1b[32ma" in said
    assert re.search(r"\x1b\[[0-9;]*[34]8;[25];", said) is None
    assert "x" * 70 in said
