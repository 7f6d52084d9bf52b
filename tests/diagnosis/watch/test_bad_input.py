"""What a watch makes of bad input: a clear word, and the training goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import etude
from etude.diagnosis.finding import Cause
from etude.errors import BadTypeError, BadValueError
from tests.diagnosis.programs import classes, fit, net, opened
from tests.diagnosis.watch.common import hooks_of


def test_a_loop_that_never_steps_is_not_called_healthy():
    x, y = classes(64)
    model = net(8, 16, 3)
    with opened(model, torch.optim.SGD(model.parameters(), lr=0.1)) as w:
        cross_entropy(model(x), y).backward()
    assert str(w.report()) == "cannot tell: No step of the optimizer was seen."
    assert not w.report().healthy


def test_a_model_without_parameters():
    other = nn.Linear(1, 1)
    with opened(nn.ReLU(), torch.optim.SGD(other.parameters(), lr=0.1)) as w:
        other(torch.zeros(1, 1)).sum().backward()
    assert str(w.report()).startswith("cannot tell: The model has no parameters.")


def test_entering_twice_and_entering_a_closed_watch_are_told():
    model = net(8, 3)
    w = opened(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with w, pytest.warns(UserWarning, match="entered twice"), w:
        pass
    with pytest.warns(UserWarning, match="this watch is closed"), w:
        pass


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        (3, None, "model is 3: give a torch.nn.Module"),
        ([], None, "model is \\[\\]"),
        ([nn.Linear(1, 1), 2], None, "model is 2"),
        (nn.Linear(1, 1), None, "optimizer is None"),
        (nn.Linear(1, 1), [], "optimizer is \\[\\]"),
        (nn.Linear(1, 1), ["sgd"], "optimizer is 'sgd'"),
    ],
)
def test_other_things_are_refused(model, optimizer, message):
    with pytest.raises(BadTypeError, match=message):
        etude.watch(model, optimizer)


@pytest.mark.parametrize("every", [0, -1, 1.5, True, "2"])
def test_a_period_is_a_positive_integer(every):
    model = nn.Linear(1, 1)
    with pytest.raises(BadValueError, match=r"every is .*: give a positive integer"):
        etude.watch(model, torch.optim.SGD(model.parameters(), lr=0.1), every=every)


def test_an_optimizer_of_another_model_is_told_of():
    x, y = classes(64)
    model, other = net(8, 16, 3), net(8, 16, 3)
    before = [p.detach().clone() for p in model.parameters()]
    w = fit(model, torch.optim.SGD(other.parameters(), lr=0.1), x, y, updates=10)
    found = w.report().findings
    assert [one.what for one in found] == [Cause.PARAMETERS_NOT_TRAINED]
    assert found[0].text == "The optimizer holds none of the model's 4 parameters."
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_step_under_no_grad_is_read_as_any_other():
    x, y = classes(64)
    reports = []
    for context in (torch.no_grad, torch.enable_grad):
        torch.manual_seed(0)
        model = net(8, 16, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with opened(model, optimizer, every=1) as w:
            for _ in range(10):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                with context():
                    optimizer.step()
        reports.append(w.report())
    one, other = (report.history for report in reports)
    assert one.updates == 10
    assert np.array_equal(one.parameter_updates, other.parameter_updates)
    assert one.loss.tolist() == other.loss.tolist()


def test_a_forward_pass_under_no_grad_is_no_update():
    x, _ = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with opened(model, optimizer, every=1) as w, torch.no_grad():
        model(x)
        optimizer.step()
    assert w.report().history.updates == 1
    assert np.all(np.isnan(w.report().history.loss))
    assert not w.report().findings


def test_a_watch_left_by_an_exception_keeps_what_it_saw():
    x, y = classes(64)
    model = net(8, 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = opened(model, optimizer, every=1)

    def loop():
        with w:
            for t in range(10):
                if t == 6:
                    raise KeyError("mine")
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()

    with pytest.raises(KeyError, match="mine"):
        loop()
    assert w.closed
    assert w.report().history.updates == 6
    assert not hooks_of(model, optimizer)
