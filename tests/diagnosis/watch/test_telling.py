"""Each finding is told once, and who is told may fail."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn.functional import cross_entropy

import etude
from etude.diagnosis.finding import Cause
from tests.diagnosis.programs import classes, fit, net, quiet
from tests.diagnosis.watch.common import hooks_of


def faulty(**options):
    """A loop that clears no gradients."""
    x, y = classes(64)
    torch.manual_seed(0)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with etude.watch(model, optimizer, **options) as w:
        for _ in range(40):
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return w


def test_a_finding_is_told_once_to_a_callback():
    told = []
    report = faulty(on_finding=told.append).report()
    assert [finding.what for finding in told] == [Cause.GRADIENTS_NOT_CLEARED]
    assert told == list(report.findings)
    assert not report.healthy
    assert report.to_dict()["findings"][0]["what"] == "gradients_not_cleared"


def test_a_finding_is_told_once_to_a_logger(caplog):
    with caplog.at_level(logging.WARNING):
        faulty(logger=logging.getLogger("mine"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "zero_grad" in caplog.text


def test_a_finding_is_printed_once_to_standard_error(capsys):
    w = faulty()
    w.report()
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("etude: gradients not cleared")


def test_a_callback_that_fails_stops_nothing():
    def fail(finding):
        raise RuntimeError("mine")

    with pytest.warns(UserWarning, match="on_finding failed and is not called again: .*mine"):
        w = faulty(on_finding=fail)
    assert w.report().history.updates == 40
    assert len(w.report().findings) == 1


def test_an_error_of_the_watch_itself_stops_the_watch_alone(monkeypatch):
    from etude.diagnosis.watching import loop_reader

    def fail(*args):
        raise RuntimeError("within")

    monkeypatch.setattr(loop_reader, "left_in_evaluation", fail)
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="the watch stopped at update 1 .*the training goes on"):
        w = fit(model, optimizer, x, y, updates=10)
    assert not hooks_of(model, optimizer)
    assert "RuntimeError: within" in str(w.report())


def test_quiet_is_quiet(capsys):
    faulty(on_finding=quiet)
    assert capsys.readouterr().err == ""
