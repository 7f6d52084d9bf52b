"""What probes and measures show of tasks whose fault is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude import Recipe, Task
from etude.diagnosis.finding import Cause
from etude.diagnosis.verdict.measures import measures
from etude.diagnosis.verdict.probes import CAUSES, QUESTIONS, SHORT, ErrorScale, probe
from etude.errors import BadValueError
from etude.record import Evaluation
from etude.trials.score import Goal
from tests.helpers import mlp

RECIPE = Recipe(optimizer="sgd", lr=0.1, steps=32, batch_size=16, evaluations=1)


def line(scale: float = 1.0) -> Task:
    """Three times a number, in units of its own."""
    x = torch.linspace(-1, 1, 128)[:, None]
    return Task(lambda: nn.Linear(1, 1), (x, 3 * scale * x), loss=mse_loss, name="line")


def looked(task: Task, recipe: Recipe, budget: float):
    """Probes of a task, beside its own run."""
    record = etude.train(task, recipe)
    known = measures(task, recipe)
    return probe(task, recipe, known, record.evaluations[-1], budget=budget, engine="loop")


def test_removing_the_cause_mends_the_run() -> None:
    slow = looked(line(), RECIPE.replace(lr=1e-3), 4.0)
    gains = {one.name: one.gain for one in slow.probes if one.share == SHORT}
    assert gains["rate x 100"] > gains["rate x 10"] > 0
    assert gains["rate / 10"] <= 0
    ended = [one for one in slow.probes if one.share == 1.0]
    causes = [CAUSES[one.name] for one in ended]
    assert len(set(causes)) == len(causes)
    assert slow.learned < 0.2


@pytest.mark.parametrize("budget", [0.0, 0.4, 0.5, 1.1, 2.3])
def test_the_cost_stays_within_the_budget(budget: float) -> None:
    shown = looked(line(), RECIPE, budget)
    assert shown.cost <= budget
    assert bool(shown.probes) == (budget >= 2 * SHORT)
    assert len(shown.skipped) + len({one.name for one in shown.probes}) >= (
        len(QUESTIONS) - 6 if budget >= 2 * SHORT else 0
    )


def test_probes_are_the_same_every_time() -> None:
    first, second = (looked(line(), RECIPE, 2.0) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("budget", [-1.0, math.nan, math.inf])
def test_a_budget_that_is_no_number_of_runs_is_refused(budget: float) -> None:
    with pytest.raises(BadValueError, match="give a number of full runs"):
        etude.diagnose(line(), RECIPE, probes=budget, progress=False)


def test_an_error_is_in_units_of_a_constant_and_grows_slowly_beyond_it() -> None:
    scale = ErrorScale(Goal(), Evaluation(0, 2.0, None))
    errors = [scale.error(Evaluation(9, loss, None)) for loss in (0.0, 1.0, 2.0, 2 * math.e)]
    assert errors == pytest.approx([0.0, 0.5, 1.0, 2.0])
    assert scale.error(None) == scale.error(Evaluation(9, math.inf, None)) == 10.0
    accuracy = ErrorScale(Goal("accuracy", maximize=True), Evaluation(0, 1.0, 0.25))
    assert accuracy.error(Evaluation(9, 1.0, 1.0)) == pytest.approx(0.0)
    assert accuracy.error(Evaluation(9, 1.0, 0.25)) == pytest.approx(1.0)


def test_measures_are_logarithms_of_what_was_changed() -> None:
    def drawn(factor: float) -> Task:
        def build() -> nn.Module:
            made = mlp(4, 32, 2)
            with torch.no_grad():
                next(made.parameters()).mul_(factor)
            return made

        x = torch.randn(1024, 4, generator=torch.Generator().manual_seed(0))
        return Task(build, (100 * x, (x[:, 0] > 0).long()), loss=cross_entropy)

    usual, large = (measures(drawn(factor), RECIPE) for factor in (1.0, 100.0))
    assert abs(usual.weights) < 0.3
    assert large.weights == pytest.approx(2.0, abs=0.3)
    assert large.layer == "0"
    assert usual.spread == pytest.approx(2.0, abs=0.1)
    assert usual.across > 0.3
    assert (usual.batch, usual.updates, usual.optimizer) == (16, 32, "sgd")
    assert measures(line(1000.0), RECIPE).targets == pytest.approx(3.2, abs=0.2)


def test_weight_decay_is_summed_over_the_run() -> None:
    recipe = RECIPE.replace(optimizer={"name": "sgd", "weight_decay": 0.5})
    assert measures(line(), recipe).decay == pytest.approx(0.5 * 0.1 * 32)
    coupled = recipe.replace(optimizer={"name": "adam", "weight_decay": 0.5})
    assert measures(line(), coupled).penalty == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"lr": 1e-5}, Cause.LR_TOO_LOW),
        ({"lr": 300.0}, Cause.LR_TOO_HIGH),
        ({"optimizer": {"name": "sgd", "weight_decay": 20.0}}, Cause.TOO_MUCH_REGULARISATION),
    ],
)
def test_diagnose_names_the_cause_on_a_bundled_task(change: dict, cause: Cause) -> None:
    task = etude.tasks.get("digits-mlp")
    recipe = Recipe(optimizer="sgd", lr=0.1, steps=150, batch_size=32).replace(**change)
    found = etude.diagnose(task, recipe, progress=False, engine="loop")
    assert found.verdict is not None
    assert found.verdict.faulty
    assert cause in [one for one, _ in found.verdict.ranked[:2]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-cnn", "cancer-mlp"])
def test_a_healthy_bundled_task_is_called_healthy(name: str) -> None:
    found = etude.diagnose(etude.tasks.get(name), progress=False, engine="loop")
    assert found.verdict is not None
    assert not found.verdict.faulty
    assert str(found) == "healthy"
    assert found.probes is not None
    assert found.probes.cost <= 6.0
