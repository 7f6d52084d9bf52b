"""`edge`: the rate at which training breaks, measured and predicted from the curvature.

The Deep Learning Tuning Playbook recommends to train at twice the best rate for up to 500 updates
and to compare with the recipe (Godbole, Dahl, Gilmer, Shallue & Nado 2023, "How can optimization
failures be debugged and mitigated?"). The prediction from the Hessian follows Cohen et al. 2021,
arXiv:2103.00065, and 2022, arXiv:2207.14484.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from etude.errors import BadValueError, check_whole
from etude.measure.gradient_norm import GradientNorm
from etude.measure.probe import Probe, judge
from etude.measure.sharpness import Sharpness, sharpness
from etude.measure.threshold import RULES
from etude.progress import Bar, bar
from etude.recipe import Recipe
from etude.record import to_json
from etude.shows_itself import ShowsItself
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from etude.trials.bad_batch import End, batch_to_blame
from etude.warning_filters import filters_kept

SHORTEST = 10
"""The smallest number of updates from which a rate can be judged."""


@dataclass(frozen=True)
class Edge(ShowsItself):
    """The result of `edge`: where training breaks above a recipe's rate.

    Attributes:
        task: The name of the task.
        lr: The recipe's rate.
        steps: The number of updates of each probe.
        length: The number of updates of the full run.
        peak: The largest multiple of a rate that the schedule reaches within `steps` updates.
        probes: The probes of all rates, ascending by rate.
        stable: The highest stable rate below the lowest unstable one; None if there is none.
        unstable: The lowest unstable rate; None if there is none.
        sharpness: The sharpness at initialisation and at later points of the recipe's run.
        formula: The threshold of rate × sharpness as text; empty if none is known.
        cost: The cost of everything, in full runs of the recipe.
        gradients: The same in gradients of single samples.
        cause: Why no rate gets past an update, where the rates are not to blame; else empty. There
            is no edge then.
    """

    task: str
    lr: float
    steps: int
    length: int
    peak: float
    probes: tuple[Probe, ...]
    stable: float | None
    unstable: float | None
    sharpness: tuple[Sharpness, ...]
    formula: str
    cost: float
    gradients: int
    cause: str = ""

    @property
    def own(self) -> Probe:
        """The probe at the recipe's rate."""
        return next(p for p in self.probes if p.lr == self.lr)

    @property
    def twice(self) -> Probe | None:
        """The probe at twice the recipe's rate; None if the recipe's rate is unstable."""
        return next((p for p in self.probes if p.lr == 2 * self.lr), None)

    @property
    def limit(self) -> float | None:
        """The measured limit: the geometric mean of `stable` and `unstable`."""
        if self.stable is None or self.unstable is None:
            return None
        return math.sqrt(self.stable * self.unstable)

    @property
    def predicted(self) -> float | None:
        """The predicted limit: the rate whose peak reaches the threshold of the curvature.

        threshold / (preconditioned sharpness · peak), at the first point at which there is a
        threshold. Later points are not used, because during training the curvature adapts to the
        rate.
        """
        limits = (point.limit for point in self.sharpness)
        found = next((limit for limit in limits if limit is not None), None)
        return None if found is None or self.peak <= 0 else found / self.peak

    @property
    def ratio(self) -> float | None:
        """Measured limit over predicted limit; 1 for a quadratic loss."""
        if self.limit is None or self.predicted is None:
            return None
        return self.limit / self.predicted

    def advice(self) -> str:
        """Return the result in sentences, and what to do about it."""
        if self.cause:
            return self.cause
        parts = [self._on_twice(), self._on_limit()]
        if 0 <= self.peak < 0.99:
            parts.append(
                f"Within {self.steps} updates the schedule reaches only {self.peak:.3g} of the "
                "rate: give more steps, so that it reaches its peak."
            )
        return " ".join(part for part in parts if part)

    def _on_twice(self) -> str:
        if self.own.unstable:
            below = (
                f"{self.stable:g} is stable"
                if self.stable
                else "all lower rates that were tried break too"
            )
            return (
                f"The recipe's rate {self.lr:g} breaks ({self.own.reason}); {below}. Tune the "
                "rate before you measure its edge."
            )
        twice = self.twice
        assert twice is not None
        clip = f"clip the gradient's norm at its 90th percentile, clip_norm={self.own.norm:.3g}"
        if twice.unstable:
            return (
                f"Twice the rate, {twice.lr:g}, breaks ({twice.reason}): the rate is within a "
                f"factor of two of the edge. Use a longer warmup, or {clip}; either may allow a "
                "higher rate that trains better."
            )
        if twice.spiked:
            return (
                f"Twice the rate, {twice.lr:g}, is stable, but its loss rises by {twice.rise:.3g} "
                f"at update {twice.rise_at}. Use a longer warmup, or {clip}."
            )
        return f"Twice the rate, {twice.lr:g}, is stable: instability does not limit the rate."

    def _on_limit(self) -> str:
        if self.unstable is None:
            return f"No rate up to {self.probes[-1].lr:g} breaks within {self.steps} updates."
        if self.limit is None:
            return ""
        said = f"Training breaks between {self.stable:g} and {self.unstable:g}"
        if self.predicted is None:
            return f"{said}. No limit is predicted: {self.unpredicted()}."
        return f"{said}; the curvature predicts {self.predicted:.3g}."

    def unpredicted(self) -> str:
        """Return why no limit is predicted; empty if one is."""
        if self.predicted is not None:
            return ""
        if not self.sharpness:
            return "no curvature was measured (not asked for, or parts of the model take turns)"
        if self.formula and all(point.threshold is None for point in self.sharpness):
            return self.sharpness[-1].reason
        return self.sharpness[-1].reason or "the largest eigenvalue of the Hessian is not positive"

    def plain(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {
            "task": self.task,
            "lr": self.lr,
            "steps": self.steps,
            "length": self.length,
            "peak": self.peak,
            "stable": self.stable,
            "unstable": self.unstable,
            "limit": self.limit,
            "predicted": self.predicted,
            "ratio": self.ratio,
            "formula": self.formula,
            "cause": self.cause,
            "advice": self.advice(),
            "probes": [probe.plain() for probe in self.probes],
            "sharpness": [
                {k: to_json(v) if isinstance(v, float) else v for k, v in point.plain().items()}
                for point in self.sharpness
            ],
            "cost": self.cost,
            "gradients": self.gradients,
        }


@filters_kept()
def edge(
    task: Task,
    recipe: Recipe | None = None,
    *,
    steps: int = 500,
    doublings: int = 6,
    bisections: int = 2,
    marks: int = 2,
    samples: int | None = None,
    tolerance: float = 0.01,
    iterations: int = 30,
    device: str | torch.device | None = None,
    progress: bool | None = None,
) -> Edge:
    """Find the rate at which training breaks, and compare it with the predicted limit.

    Every probe starts from initialisation with the recipe's seed, so with the same weights and
    batches, and trains for the first `steps` updates of the recipe's full-length schedule. The rate
    is doubled until training breaks, then the interval is bisected on a logarithmic scale. If the
    recipe's rate breaks, it is halved until it is stable. The task is not changed.

    Args:
        task: The task.
        recipe: The recipe with its tuned rate; None takes the task's defaults.
        steps: The largest number of updates of each probe; at most those of the run.
        doublings: How often the rate is doubled (or halved) at most.
        bisections: How often the interval between stable and unstable is halved.
        marks: The number of points of the recipe's run, besides its start, at which the sharpness
            is measured.
        samples: As in `etude.measure.sharpness.sharpness`.
        tolerance: As there.
        iterations: As there; with 0 no curvature is measured. Nor is it if parts of the model take
            turns, because there is no single loss.
        device: Where to train; None takes the model's device, else an accelerator.
        progress: Whether to draw a bar; None draws it at a terminal.

    Returns:
        The measured and the predicted limit, with all probes and the cost.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a number is out of bounds.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: torch.nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> flat = Recipe(optimizer="sgd", lr=0.1, schedule="constant()", steps=100, batch_size="all")
    >>> found = edge(task, flat, bisections=4)
    >>> found.stable < found.predicted < found.unstable
    True
    """
    recipe = recipe or Recipe(**task.defaults)
    steps = check_whole("steps", steps, SHORTEST)
    doublings = check_whole("doublings", doublings, 1)
    bisections = check_whole("bisections", bisections, 0)
    marks, iterations = check_whole("marks", marks, 0), check_whole("iterations", iterations, 0)

    def measured(run: Run) -> Sharpness:
        return sharpness(run, samples=samples, tolerance=tolerance, iterations=iterations)

    with bar(progress, task.name) as show:
        search = _Search(task, recipe, steps, device, show)
        points = search.own(marks, measured if iterations and not task.alternates else None)
        search.bracket(doublings, bisections)
    return search.result(points)


class _Search:
    """The probes of one search for the edge, and their cost."""

    def __init__(
        self, task: Task, recipe: Recipe, steps: int, device: str | torch.device | None, show: Bar
    ) -> None:
        self.first = Run(task, recipe, device=device, observers=[GradientNorm(name="norm")])
        self.first.check()
        self.task, self.recipe, self.device, self.show = task, recipe, device, show
        self.length = self.first.length
        if self.length < SHORTEST:
            raise BadValueError(
                f"steps={self.length} is too short to tell whether training breaks: give a recipe "
                f"of at least {SHORTEST} updates"
            )
        self.steps = min(steps, self.length)
        reacts = any(node.reacts for s in (recipe.schedule, *recipe.schedules.values())
                     for node in s.walk())  # fmt: skip
        self.evaluation_steps = (
            self.first.state.evaluation_steps if reacts or recipe.early_stopping else set()
        )
        self.probes: dict[float, Probe] = {}
        self.gradients = 0
        self.peak = 0.0

    def own(self, marks: int, measure: Callable[[Run], Sharpness] | None) -> list[Sharpness]:
        """Train at the recipe's rate, and measure the sharpness at some updates."""
        run = self.first
        steps = sorted({round(self.steps * i / max(1, marks)) for i in range(marks + 1)})
        points: list[Sharpness] = []
        for step in steps if measure is not None else ():
            self._advance(run, step)
            if run.step < step or run.diverged:
                break
            assert measure is not None
            points.append(measure(run))
            self.gradients += points[-1].gradients
        self._advance(run, self.steps)
        self.peak = max((v / run.recipe.lr for v in run.series["lr"]), default=0.0)
        self.losses = run.series["loss"]
        self._judge(run)
        return points

    def bracket(self, doublings: int, bisections: int) -> None:
        """Double the rate until training breaks, or halve it until it is stable; then bisect."""
        lr = self.recipe.lr
        broken = self.probes[lr].unstable
        for _ in range(doublings):
            lr = lr / 2 if broken else lr * 2
            if not math.isfinite(lr) or self.probe(lr).unstable != broken:
                break
        for _ in range(bisections):
            stable, unstable = self.ends()
            if stable is None or unstable is None:
                return
            self.probe(math.sqrt(stable * unstable))

    def ends(self) -> tuple[float | None, float | None]:
        """Return the highest stable rate below the lowest unstable one, and the latter."""
        unstable = min((p.lr for p in self.probes.values() if p.unstable), default=None)
        sound = [p.lr for p in self.probes.values() if not p.unstable]
        stable = max((lr for lr in sound if unstable is None or lr < unstable), default=None)
        return stable, unstable

    def probe(self, lr: float) -> Probe:
        """Train at a rate and judge whether it is stable."""
        recipe = self.recipe.replace(lr=lr)
        run = Run(self.task, recipe, device=self.device, observers=[GradientNorm(name="norm")])
        run.limit_threads(self.first.threads)
        self._advance(run, self.steps)
        return self._judge(run)

    def _advance(self, run: Run, until: int) -> None:
        def show(state: RunState, step: int) -> None:
            self.show(step, self.steps, f"rate {state.recipe.lr:g}, {len(self.probes)} probed")

        steps = {step for step in self.evaluation_steps if step <= until}
        run.advance(AdvanceRequest(until, steps, on_step=show))

    def _judge(self, run: Run) -> Probe:
        own = run.recipe.lr == self.recipe.lr
        self.gradients += run.record().cost.gradients
        found = judge(
            run.recipe.lr,
            run.series["loss"],
            run.series.get("grad_norm") or run.series.get("norm", []),
            run.reason if run.diverged else "",
            None if own else self.losses,
            higher=run.recipe.lr > self.recipe.lr,
        )
        self.probes[run.recipe.lr] = found
        return found

    def result(self, points: Sequence[Sharpness]) -> Edge:
        """Return what was found."""
        ends = [End(one.lr, one.updates, one.diverged) for one in self.probes.values()]
        cause = batch_to_blame(ends, lambda: Run(self.task, self.recipe, device=self.device))
        stable, unstable = (None, None) if cause else self.ends()
        kind = RULES.get(self.first.state.optimizer_spec.stability)
        whole = self.length * self.recipe.accumulate * self.first.batch_size
        return Edge(
            task=self.task.name,
            lr=self.recipe.lr,
            steps=self.steps,
            length=self.length,
            peak=self.peak,
            probes=tuple(self.probes[lr] for lr in sorted(self.probes)),
            stable=stable,
            unstable=unstable,
            sharpness=tuple(points),
            formula="" if kind is None else kind.formula,
            cost=self.gradients / whole,
            gradients=self.gradients,
            cause=cause,
        )
