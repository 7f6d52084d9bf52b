"""A finished tuning with more budget: it repeats no update, and is as well founded or better."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from etude import Recipe, Task, TuneResult, tune
from etude.errors import BadValueError, EtudeError
from etude.training.loop import TrainingLoop

RECIPE = Recipe(lr=0.05, steps=32, batch_size=8, schedule="cosine()")


def line() -> Task:
    x = torch.linspace(-1, 1, 40)[:, None]
    return Task(
        lambda: nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1)),
        (x, x**2), loss=mse_loss,
    )  # fmt: skip


def weights(result: TuneResult) -> list[float]:
    return torch.cat([p.detach().flatten() for p in result.model.parameters()]).tolist()


@pytest.fixture
def updates(monkeypatch):
    """Count the updates that are really made."""
    made = []
    plain = TrainingLoop._update

    def counted(self, stream):
        made.append(self.state.step)
        return plain(self, stream)

    monkeypatch.setattr(TrainingLoop, "_update", counted)
    return made


@pytest.mark.parametrize(
    ("budgets", "evaluations", "steps"),
    [
        ((1.2, 1.5), 20, 41),
        ((1.5, 3.0), 3, 32),
        pytest.param((1.5, 3.0), 20, 41, marks=pytest.mark.slow),
        pytest.param((1.75, 2.5, 5.0), 20, 32, marks=pytest.mark.slow),
        pytest.param((1.75, 2.5, 5.0), 3, 41, marks=pytest.mark.slow),
        pytest.param((3.0, 10.0), 20, 32, marks=pytest.mark.slow),
        pytest.param((3.0, 10.0), 3, 41, marks=pytest.mark.slow),
    ],
)
def test_a_finished_tuning_with_more_budget_repeats_nothing(
    tmp_path, updates, budgets, evaluations, steps
):
    recipe = RECIPE.replace(steps=steps, evaluations=evaluations)
    said = {"folder": tmp_path, "progress": False, "engine": "loop"}
    first = tune(line(), recipe, budgets[0], **said)
    assert len(updates) == round(first.cost * steps)
    for budget in budgets[1:]:
        before = len(updates)
        more = tune(line(), budget=budget, resume=True, **said)
        assert first.cost <= more.cost <= budget
        assert len(updates) - before == round((more.cost - first.cost) * steps)
        # What was found stays found, and the answer is as good or better.
        known = {t.lr: t.record for t in more.trials}
        for trial in first.trials:
            seen = known[trial.lr].evaluations
            assert set(map(str, trial.record.evaluations)) <= set(map(str, seen))
        assert more.loss <= first.loss
        first = more
    table = json.loads((tmp_path / "tuning.json").read_text())
    assert [one["budget"] for one in table["earlier"]] == list(budgets[:-1])
    before = len(updates)
    read = tune(line(), folder=tmp_path, resume=True, progress=False)
    assert read.plain() == first.plain()
    assert len(updates) == before
    with pytest.raises(BadValueError, match=r"has a budget of .* full runs: give more"):
        tune(line(), None, budgets[0], folder=tmp_path, resume=True, progress=False)


def test_more_runs_are_the_budget_that_they_add_up_to(tmp_path):
    said = {"progress": False, "engine": "loop"}
    recipe = RECIPE
    for name in ("a", "b"):
        tune(line(), recipe, 1.5, folder=tmp_path / name, **said)
    one = tune(line(), folder=tmp_path / "a", resume=True, more=1.5, **said)
    two = tune(line(), budget=3.0, folder=tmp_path / "b", resume=True, **said)
    assert weights(one) == weights(two)
    assert one.budget == two.budget == 3.0


class CableError(Exception):
    """What ends a process in the middle of an update."""


@pytest.mark.parametrize("after", [20, pytest.param(3, marks=pytest.mark.slow)])
def test_a_tuning_interrupted_on_a_larger_budget_goes_on_to_the_same_result(
    tmp_path, monkeypatch, after
):
    said = {"progress": False, "engine": "loop"}
    recipe = RECIPE
    for name in ("whole", "cut"):
        tune(line(), recipe, 1.5, folder=tmp_path / name, **said)
    whole = tune(line(), budget=3.0, folder=tmp_path / "whole", resume=True, **said)
    plain, made = TrainingLoop._update, []

    def failing(self, stream):
        made.append(1)
        if len(made) == after:
            raise CableError("the power went")
        return plain(self, stream)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", failing)
        with pytest.raises(CableError, match="the power went"):
            tune(line(), budget=3.0, folder=tmp_path / "cut", resume=True, **said)
    cut = tune(line(), folder=tmp_path / "cut", resume=True, **said)
    assert (cut.lr, cut.tied, cut.cost) == (whole.lr, whole.tied, whole.cost)
    assert weights(cut) == weights(whole)


def test_a_finished_tuning_over_folds_gets_more(tmp_path):
    recipe = RECIPE
    said = {"folder": tmp_path, "progress": False, "engine": "loop"}
    first = tune(line(), recipe, 2.5, folds=2, **said)
    more = tune(line(), budget=4.0, resume=True, **said)
    assert {t.lr for t in first.trials} <= {t.lr for t in more.trials}
    assert more.cost <= 4.0
    assert more.record.status == "finished"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seeds": 3}, "seeds=3: the tuning in the folder has 1: leave it out"),
        ({"folds": 2}, "folds=2: the tuning in the folder has 1"),
        ({"objective": "metric"}, "objective='metric': the tuning in the folder has 'loss'"),
        ({"valid_samples": 32}, "valid_samples=32: the tuning in the folder has 'auto'"),
        ({"over": {"optimizer": ["sgd", "adam"]}}, "over=.*: the tuning in the folder has None"),
    ],
)
def test_another_question_is_not_answered_by_a_kept_tuning(tmp_path, asked, message):
    tune(line(), RECIPE, 1.2, folder=tmp_path, progress=False, engine="loop")
    again = tune(line(), folder=tmp_path, resume=True, seeds=1, objective="loss", progress=False)
    assert again.budget == 1.2
    with pytest.raises(BadValueError, match=message):
        tune(line(), folder=tmp_path, resume=True, progress=False, **asked)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"more": 1.0}, "more=1.0 needs resume=True"),
        ({"more": 1.0, "budget": 4.0, "resume": True}, "give one of them"),
        ({"more": 0.0, "resume": True}, "more=0 is out of bounds: give full runs above 0"),
        ({"more": "a", "resume": True}, "more='a' is not a number: give full runs above 0"),
    ],
)
def test_what_is_no_more_of_a_tuning_is_refused(tmp_path, given, message):
    tune(line(), RECIPE, 1.2, folder=tmp_path, progress=False, engine="loop")
    with pytest.raises(EtudeError, match=message):
        tune(line(), folder=tmp_path, progress=False, **given)
