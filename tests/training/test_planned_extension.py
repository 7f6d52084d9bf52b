"""A run trained further equals the one planned at that length, where its schedule allows."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Record, Task, train
from etude.report.kinds.run import of_run

X = torch.linspace(-1, 1, 40)[:, None]
Y = 3 * X + 0.1 * torch.sin(20 * X)
BASE = Recipe(lr=0.05, steps=12, batch_size=8, evaluations=4, schedule="constant()")


def task_of(source=None) -> Task:
    model = lambda: nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1))  # noqa: E731
    return Task(model, source or (X, Y), valid=(X, Y), loss=mse_loss)


def weights(record: Record) -> list[float]:
    return torch.cat([p.detach().flatten() for p in record.model.parameters()]).tolist()


def extended_and_planned(folder, recipe: Recipe, *lengths, task=task_of):
    train(task(), recipe.replace(steps=lengths[0]), folder=folder)
    for length in lengths[1:]:
        further = train(task(), folder=folder, resume=True, steps=length)
    return further, train(task(), recipe.replace(steps=lengths[-1]))


def check_equal(further: Record, planned: Record) -> None:
    assert weights(further) == weights(planned)
    for name in ("loss", "lr"):
        assert np.array_equal(further.series[name], planned.series[name])
    assert further.valid_loss == planned.valid_loss


@pytest.mark.parametrize(
    "schedule",
    [
        "triangular(5)",
        "restarts(4)",
        "linear(3).repeat()",
        "warmup(6) >> constant()",
        "warmup(20) >> constant()",
        "rsqrt(5)",
        "step(7, 0.5)",
    ],
)
def test_a_schedule_that_does_not_know_the_length_goes_on_as_planned(tmp_path, schedule):
    check_equal(
        *extended_and_planned(tmp_path / "run", BASE.replace(schedule=schedule), 12, 17, 30)
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"accumulate": 3},
        {"accumulate": 2, "clip_percentile": 50},
        {"optimizer": "adamw", "clip_norm": 0.5},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_accumulated_and_clipped_runs_go_on_as_planned(tmp_path, fields):
    check_equal(*extended_and_planned(tmp_path / "run", BASE.replace(**fields), 7, 20))


@pytest.mark.parametrize("fields", [{}, {"accumulate": 3}])
def test_epochs_of_a_loader_go_on_as_planned(tmp_path, fields):
    def task():
        return task_of(DataLoader(TensorDataset(X, Y), batch_size=12, shuffle=True))

    recipe = BASE.replace(batch_size=None, schedule="triangular('1 epoch')", **fields)
    lengths = ("1 epoch", "2 epochs", 11)
    check_equal(*extended_and_planned(tmp_path / "run", recipe, *lengths, task=task))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": "cosine()"}, r"its rate at update \d+ was .*, in a run planned with 20 upd"),
        ({"schedule": "warmup('50%') >> constant()"}, r"its rate at update \d+ was"),
        ({"schedule": "triangular(2).repeat(3).fit('100%')"}, r"its rate at update \d+ was"),
        ({"schedule": "plateau(0.5, patience=0)"}, r"a schedule follows evaluations that are at"),
        ({"early_stopping": 9}, r"early stopping follows evaluations .* planned with 20 updates"),
    ],
    ids=str,
)
def test_where_it_is_not_the_planned_run_the_answer_says_why(tmp_path, fields, said):
    recipe = BASE.replace(**fields)
    further, planned = extended_and_planned(tmp_path / "run", recipe, 12, 20)
    assert re.match(said, further.not_as_planned), further.not_as_planned
    assert Record.load(tmp_path / "run").not_as_planned == further.not_as_planned
    assert further.not_as_planned in [fact.note for fact in of_run(further).facts]
    assert planned.not_as_planned == ""


def test_a_rate_that_is_said_is_that_of_either_run(tmp_path):
    recipe = BASE.replace(schedule="linear()")
    further, planned = extended_and_planned(tmp_path / "run", recipe, 12, 20)
    step, was, would = re.match(
        r"its rate at update (\d+) was (\S+), in a run planned with 20 updates it is (\S+)$",
        further.not_as_planned,
    ).groups()
    assert float(was) == pytest.approx(further.series["lr"][int(step)], rel=1e-3)
    assert float(would) == pytest.approx(planned.series["lr"][int(step)], rel=1e-3)


def test_a_run_that_goes_on_as_planned_says_nothing(tmp_path):
    recipe = BASE.replace(schedule="triangular(5)")
    further, _ = extended_and_planned(tmp_path / "run", recipe, 12, 20)
    assert (further.extended, further.not_as_planned) == ((12,), "")
