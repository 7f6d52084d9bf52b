"""The rate of every parameter of a model, or slice of one, over a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from etude.layerwise.model_parts import parts_of
from etude.layerwise.multipliers import Multiplier
from etude.layerwise.parts import Part
from etude.layerwise.planning import Plan, plan
from etude.layerwise.spec import LrMult
from etude.measure.coordinate_check import CoordinateCheck
from etude.recipe import Recipe
from etude.schedules import Schedule
from etude.tasks.task import Task
from etude.training.checks.flow import flow_of
from etude.training.run import Run

POINTS = 64
"""Number of points of a curve over the run."""


class ParameterRate(NamedTuple):
    """The rate of one parameter, or of some rows of it.

    Attributes:
        name: The parameter's name, with the slice.
        shape: Its shape.
        size: The number of scalars in it.
        rule: The rule that sets its multiplier.
        multiplier: Its multiplier at its largest rate.
        rate: Its largest rate over the run.
        decay: The multiplier of its weight decay.
        text: The multiplier as a number, or as a schedule's text.
        curve: Its multiplier at `POINTS` steps of the run; empty if it is constant.
        role: Whether its layer is 'input', 'middle' or 'output'; '' if that is unknown.
    """

    name: str
    shape: tuple[int, ...]
    size: int
    rule: str
    multiplier: float
    rate: float
    decay: float
    text: str
    curve: tuple[float, ...]
    role: str = ""


@dataclass(frozen=True)
class LayerRates:
    """The rates of all parameters of a task's model.

    Attributes:
        task: The task's name.
        recipe: The recipe with the rate and the multipliers.
        length: The number of updates of the run.
        layers: The number of layers of the model.
        rows: The rates, in the model's order.
        check: The result of a coordinate check of the same recipe; None without one.
    """

    task: str
    recipe: Recipe
    length: int
    layers: int
    rows: tuple[ParameterRate, ...]
    check: CoordinateCheck | None = None

    def plain(self) -> dict[str, Any]:
        """Return the rates as plain values for JSON."""
        multipliers = self.recipe.lr_mult
        found: dict[str, Any] = {
            "task": self.task,
            "lr": self.recipe.lr,
            "lr_mult": None if multipliers is None else multipliers.plain(),
            "rows": [
                {**row._asdict(), "shape": list(row.shape), "curve": list(row.curve)}
                for row in self.rows
            ],
        }
        return found if self.check is None else {**found, "coordinate_check": self.check.plain()}


def layer_rates(task: Task, recipe: Recipe, *, device: str = "cpu") -> LayerRates:
    """Return the rate of every parameter, without training; the task's model is not changed.

    A parameter with the multiplier m has the rate lr · schedule(t) · m(t) at update t.

    Args:
        task: The task.
        recipe: The recipe.
        device: The device on which the model is built.

    Raises:
        BadValueError: If a rule of the recipe's multipliers does not fit the model.

    >>> from etude import tasks
    >>> task = tasks.get("diabetes-mlp", width=4)
    >>> found = layer_rates(task, Recipe(lr=0.01, lr_mult={"head.weight": 0.5}, steps=100))
    >>> [(row.name, row.rate) for row in found.rows][-2:]
    [('head.weight', 0.005), ('head.bias', 0.01)]
    """
    run = Run(task, recipe, device=device)
    run.release()
    flow = flow_of(run.task, recipe, run.model, run.batch_size, run.autocast(), asked=True)
    rates = run.state.rates
    laid = plan(LrMult(), run.model, flow=flow) if rates is None else rates.plan
    rows = parameter_rates(
        laid, recipe.lr, run.state.lr_schedule, run.length, parts_of(run.model, flow)
    )
    return LayerRates(task.name, recipe, run.length, laid.depths, tuple(rows))


def parameter_rates(
    plan: Plan,
    lr: float,
    shape: Schedule,
    length: int,
    parts: Sequence[Part] = (),
) -> list[ParameterRate]:
    """Return the rates of a plan's rows over a run.

    Args:
        plan: The multipliers of all parameters, bound to the run.
        lr: The peak of the recipe's rate.
        shape: The recipe's schedule, bound to the run.
        length: The run's length in updates.
        parts: The model's parts, with the roles from a forward pass; none takes the plan's parts.
    """
    roles = {part.name: _role(part) for part in (*(row.part for row in plan.rows), *parts)}
    steps = np.unique(np.linspace(0, length - 1, min(length, 100_000)).round())
    base = lr * np.asarray(shape(steps), dtype=np.float64)
    known: dict[Multiplier, tuple[float, float, tuple[float, ...]]] = {}
    found = []
    for row in plan.rows:
        if row.multiplier not in known:
            known[row.multiplier] = _largest(row.multiplier, steps, base)
        multiplier, rate, curve = known[row.multiplier]
        own = row.multiplier
        text = repr(own) if isinstance(own, Schedule) else f"{own:.4g}"
        found.append(
            ParameterRate(
                row.name, row.part.shape, row.count, row.rule, multiplier, rate, row.decay,
                text, curve, roles[row.part.name],
            )
        )  # fmt: skip
    return found


def _role(part: Part) -> str:
    return " + ".join(sorted(part.places)) if part.told else ""


def _largest(
    multiplier: Multiplier, steps: np.ndarray, base: np.ndarray
) -> tuple[float, float, tuple[float, ...]]:
    """Return the multiplier and the rate at the largest rate, and the curve."""
    if not isinstance(multiplier, Schedule):
        return multiplier, float(multiplier * base.max()), ()
    values = np.asarray(multiplier(steps), dtype=np.float64)
    rates = values * base
    at = int(rates.argmax())
    places = np.linspace(0, len(steps) - 1, POINTS).round().astype(int)
    return float(values[at]), float(rates[at]), tuple(float(v) for v in values[places])
