"""Evaluations of stacked members: each is that of its own run, made together or alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Task
from etude.engines import VmapEngine
from etude.engines.vmap import evaluate as looks
from etude.engines.vmap import loop as module
from etude.errors import TaskError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.engines.common import BASE, assert_close, both, data, mlp, noisy, quarters, runs_of, task

RECIPES = [BASE.replace(lr=0.01 * (i + 1), seed=i % 3) for i in range(9)]


class Pair(nn.Module):
    """Answers with a mapping, and carries a buffer from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if not self.training:
            self.seen.add_(1.0)
        return {"scores": self.net(x) + 0.01 * self.seen}


class Asking(nn.Module):
    """Asks, when it is evaluated, what only one network's numbers can answer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y * 2 if not self.training and y.sum() > 1e9 else y


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many members are evaluated together, each time that it works."""
    made: list[int] = []
    whole = module._evaluate_together

    def noted(stack: Any, due: list[int]) -> None:
        whole(stack, due)
        made.append(len(due))

    monkeypatch.setattr(module, "_evaluate_together", noted)
    return made


def hold(of: Task, recipes: Any = RECIPES) -> list[Run]:
    engine = VmapEngine(compile="never")
    ours, theirs = both(of, recipes, engine, (7, None))
    assert engine.notes == []
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)
        for mine, its in zip(one.evaluations, other.evaluations, strict=True):
            assert mine.metric == pytest.approx(its.metric, abs=1e-3)
            assert mine.parts == pytest.approx(its.parts, abs=1e-4)
    return ours


def test_they_are_those_of_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    for of in (task(), task(noisy)):
        ours = hold(of)
        assert len({run.evaluations[-1].loss for run in ours}) == len(RECIPES)
    assert made == [9, 9, 9, 9] * 2  # of five quarters, the first is met with the runs' own bits


def test_the_loss_is_the_tasks_own_where_training_smooths_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = counted(monkeypatch)
    hold(task(), [recipe.replace(label_smoothing=0.3) for recipe in RECIPES])
    assert made


def test_outputs_of_any_shape_and_buffers_that_are_carried_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = counted(monkeypatch)
    of = Task(
        Pair,
        data(),
        loss=lambda output, target: F.cross_entropy(output["scores"], target),
        metric=lambda output, target: output["scores"].square().mean(),
    )
    ours = hold(of)
    assert made
    assert all(float(run.model.seen) == 0 for run in ours)


def test_what_cannot_be_stacked_is_evaluated_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    hold(task(Asking))
    assert made == []


def test_answers_that_take_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    monkeypatch.setattr(looks, "LARGEST", 2 * 9 * 2 * 4)  # two slices of one row, of sixteen
    hold(task())
    assert made == []


def test_few_members_and_steps_of_ones_own_are_evaluated_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = counted(monkeypatch)
    hold(task(), RECIPES[:3])
    of = Task(mlp, data(), step=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]))
    ours, theirs = both(of, RECIPES, VmapEngine(compile="never"))
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)
    assert made == []


def test_one_that_diverges_at_an_evaluation_leaves_with_its_weights() -> None:
    recipes = [*RECIPES[:8], BASE.replace(lr=1e12, steps=20, seed=4)]
    ours, theirs = both(task(), recipes, VmapEngine(compile="never"))
    assert theirs[-1].status in ("diverged", "finished")
    for one, other in zip(ours[:8], theirs[:8], strict=True):
        assert_close(one, other)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        broken = torch.where(output.abs().max() > 3, torch.inf, 0.0)
        return F.cross_entropy(output, target) + (0.0 if torch.is_grad_enabled() else broken)

    of = Task(mlp, data(), loss=loss)
    ours, theirs = both(of, [*RECIPES[:8], BASE.replace(lr=2.0)], VmapEngine(compile="never"))
    assert theirs[-1].reason.startswith("the validation loss became inf")
    for one, other in zip(ours, theirs, strict=True):
        assert one.reason == other.reason
        assert torch.allclose(one.model[0].weight, other.model[0].weight, atol=1e-2)


def test_an_error_names_the_member() -> None:
    def metric(output: Tensor, target: Tensor) -> float:
        if float(output.abs().max()) > 50:
            raise ValueError("it broke")
        return 0.0

    of = Task(mlp, data(), loss=F.cross_entropy, metric=metric)
    runs = runs_of(of, [*RECIPES[:8], BASE.replace(lr=300.0)])
    with pytest.raises(TaskError, match=r"^metric .*it broke") as caught:
        VmapEngine(compile="never").advance(runs, AdvanceRequest(evaluation_steps=quarters))
    assert caught.value.__notes__ == ["in the run at lr 300, seed 0"]
