"""Progress: a bar for a terminal, now and then a line for a log, nothing for who wants none."""

from __future__ import annotations

import pytest

from etude import progress


def report(wanted: bool | None) -> None:
    with progress.bar(wanted, "digits") as draw:
        for done in range(1, 5):
            draw(done, 4, f"loss {done}")


def test_a_log_gets_a_line_every_so_often(monkeypatch, capsys):
    now = iter([0.0, 3.0, 11.0, 12.0, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    report(None)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["digits: 50% loss 2", "digits: 100% loss 4"]
    assert said.out == ""


@pytest.mark.parametrize("wanted", [None, False])
def test_what_is_quick_or_not_wanted_is_silent(wanted, capsys):
    report(wanted)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_without_a_cursor_gets_lines(monkeypatch, capsys, term):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", term)
    report(None)
    assert capsys.readouterr().err.splitlines()[-1] == "digits: 100% loss 4"


def test_not_wanted_is_silent_however_long(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    report(False)
    assert capsys.readouterr() == ("", "")
