"""`edge`: how far above a recipe's rate training breaks, and where curvature says it should.

Twice the best rate for up to 500 updates beside the recipe itself is the check that the Deep
Learning Tuning Playbook recommends (Godbole, Dahl, Gilmer, Shallue & Nado 2023, "How can
optimization failures be debugged and mitigated?"). The prediction from the Hessian is that of
Cohen et al. 2021, arXiv:2103.00065, and 2022, arXiv:2207.14484.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from etude.errors import BadTypeError, BadValueError
from etude.measure.gradient_norm import GradientNorm
from etude.measure.probe import Probe, judge
from etude.measure.sharpness import Sharpness, sharpness
from etude.measure.threshold import RULES
from etude.progress import Bar, bar
from etude.recipe import Recipe
from etude.record import to_json
from etude.tasks.task import Task
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state import RunState
from etude.warning_filters import filters_kept

SHORTEST = 10
"""Updates below which nothing can be said of a rate."""


@dataclass(frozen=True)
class Edge:
    """Where training breaks above a recipe's rate.

    Attributes:
        task: The task's name.
        lr: The recipe's rate.
        steps: Updates of each probe.
        length: Updates of the full run.
        peak: The largest multiple of a rate that the schedule reaches within `steps`.
        probes: Every rate tried, ascending.
        stable: The highest rate tried below the lowest that broke; None if every one broke.
        unstable: The lowest rate that broke; None if none did.
        sharpness: At initialisation and along the recipe's own run, in order.
        formula: The threshold of rate × sharpness in words; empty where none is known.
        cost: In full runs of the recipe, everything included.
        gradients: The same, in gradients of single samples.
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

    @property
    def own(self) -> Probe:
        """The recipe's own rate."""
        return next(p for p in self.probes if p.lr == self.lr)

    @property
    def twice(self) -> Probe | None:
        """The probe at twice the recipe's rate; None where the recipe's own broke."""
        return next((p for p in self.probes if p.lr == 2 * self.lr), None)

    @property
    def limit(self) -> float | None:
        """The measured limit: the geometric mean of `stable` and `unstable`."""
        if self.stable is None or self.unstable is None:
            return None
        return math.sqrt(self.stable * self.unstable)

    @property
    def predicted(self) -> float | None:
        """The peak of the rate at which the first measured curvature says the update breaks.

        threshold / (preconditioned sharpness · peak), at the first mark that has one. The later
        marks are not used: along the way the curvature adapts to the rate.
        """
        found = next((one.limit for one in self.sharpness if one.limit is not None), None)
        return None if found is None or self.peak <= 0 else found / self.peak

    @property
    def ratio(self) -> float | None:
        """Measured limit over predicted limit; 1 where the loss is a quadratic."""
        if self.limit is None or self.predicted is None:
            return None
        return self.limit / self.predicted

    def advice(self) -> str:
        """Say what was found and what to do about it."""
        parts = [self._on_twice(), self._on_limit()]
        if 0 <= self.peak < 0.99:
            parts.append(
                f"Within {self.steps} updates the schedule reaches only {self.peak:.3g} of the "
                "rate: give more steps to see its peak."
            )
        return " ".join(part for part in parts if part)

    def _on_twice(self) -> str:
        if self.own.unstable:
            below = (
                f"{self.stable:g} holds" if self.stable else "no rate tried below it does better"
            )
            return (
                f"The recipe's own rate {self.lr:g} breaks ({self.own.reason}); {below}. Tune "
                "the rate before looking at its edge."
            )
        twice = self.twice
        assert twice is not None
        clip = f"clip the gradient's norm at its 90th percentile, clip_norm={self.own.norm:.3g}"
        if twice.unstable:
            return (
                f"Twice the rate, {twice.lr:g}, breaks ({twice.reason}): training stands within "
                f"a factor of two of its edge. Warm up longer, or {clip}; with either a higher "
                "rate may train better."
            )
        if twice.spiked:
            return (
                f"Twice the rate, {twice.lr:g}, holds, but its loss spikes by {twice.rise:.3g} at "
                f"update {twice.rise_at}. A longer warmup gives more room; or {clip}."
            )
        return f"Twice the rate, {twice.lr:g}, holds: instability is not what limits the rate."

    def _on_limit(self) -> str:
        if self.unstable is None:
            return f"No rate up to {self.probes[-1].lr:g} breaks within {self.steps} updates."
        if self.limit is None:
            return ""
        said = f"Training breaks between {self.stable:g} and {self.unstable:g}"
        if self.predicted is None:
            return f"{said}. No limit is predicted: {self.unpredicted()}."
        return f"{said}; curvature predicts {self.predicted:.3g}."

    def unpredicted(self) -> str:
        """Say why no limit is predicted; empty where one is."""
        if self.predicted is not None:
            return ""
        if not self.sharpness:
            return "no curvature was measured (not asked for, or parts of the model take turns)"
        if self.formula and all(one.threshold is None for one in self.sharpness):
            return self.sharpness[-1].reason
        return self.sharpness[-1].reason or "the loss curves up nowhere"

    def plain(self) -> dict[str, Any]:
        """Return the findings as plain values that JSON can hold."""
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
            "advice": self.advice(),
            "probes": [probe.plain() for probe in self.probes],
            "sharpness": [
                {k: to_json(v) if isinstance(v, float) else v for k, v in one.plain().items()}
                for one in self.sharpness
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
    """Find where training breaks above a recipe's rate, and hold it against the curvature.

    Every probe starts from initialisation with the recipe's seed, so on the same weights and
    batches, and follows the first `steps` updates of the recipe's own full-length schedule. The
    rate is doubled until training breaks, then the gap is halved in its logarithm. Where the
    recipe's own rate breaks, it is halved until it holds. The task is left as it was.

    Args:
        task: What to learn.
        recipe: How, with its tuned rate; None takes the task's defaults.
        steps: Updates of each probe at most; no more than the run has.
        doublings: How often the rate is doubled (or halved) at most.
        bisections: How often the gap between what holds and what breaks is halved.
        marks: Along the recipe's own run, besides its start, where the sharpness is measured.
        samples: As `etude.measure.sharpness.sharpness`.
        tolerance: As there.
        iterations: As there; 0 measures no curvature. Where parts of the model take turns there
            is no one loss, and none is measured either.
        device: Where to train; None takes the model's own device, else an accelerator.
        progress: Whether to draw a bar; None draws it where somebody sits at a terminal.

    Raises:
        TaskError: If model, data and loss do not fit together.
        BadValueError: If a number is out of bounds.

    >>> from torch.nn.functional import mse_loss
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> task = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=mse_loss)
    >>> flat = Recipe(optimizer="sgd", lr=0.1, schedule="constant()", steps=100, batch_size="all")
    >>> found = edge(task, flat, bisections=4)
    >>> found.stable < found.predicted < found.unstable
    True
    """
    recipe = recipe or Recipe(**task.defaults)
    for name, value, least in (
        ("steps", steps, SHORTEST),
        ("doublings", doublings, 1),
        ("bisections", bisections, 0),
        ("marks", marks, 0),
        ("iterations", iterations, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadTypeError(f"{name}={value!r} is not a whole number")
        if value < least:
            raise BadValueError(f"{name}={value!r} is out of bounds: give at least {least}")

    def look(run: Run) -> Sharpness:
        return sharpness(run, samples=samples, tolerance=tolerance, iterations=iterations)

    with bar(progress, task.name) as show:
        search = _Search(task, recipe, steps, device, show)
        seen = search.own(marks, look if iterations and not task.alternates else None)
        search.bracket(doublings, bisections)
    return search.result(seen)


class _Search:
    """The probes of one edge, and what they cost."""

    def __init__(
        self, task: Task, recipe: Recipe, steps: int, device: str | torch.device | None, show: Bar
    ) -> None:
        self.first = Run(task, recipe, device=device, observers=[GradientNorm(name="norm")])
        self.first.check()
        self.task, self.recipe, self.device, self.show = task, recipe, device, show
        self.length = self.first.length
        if self.length < SHORTEST:
            raise BadValueError(
                f"steps={self.length} is too short to see training break: give a recipe of at "
                f"least {SHORTEST} updates"
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

    def own(self, marks: int, look: Callable[[Run], Sharpness] | None) -> list[Sharpness]:
        """Train at the recipe's own rate, and measure the sharpness on the way."""
        run = self.first
        places = sorted({round(self.steps * i / max(1, marks)) for i in range(marks + 1)})
        seen: list[Sharpness] = []
        for place in places if look is not None else ():
            self._go(run, place)
            if run.step < place or run.diverged:
                break
            assert look is not None
            seen.append(look(run))
            self.gradients += seen[-1].gradients
        self._go(run, self.steps)
        self.peak = max((v / run.recipe.lr for v in run.series["lr"]), default=0.0)
        self.losses = run.series["loss"]
        self._judge(run)
        return seen

    def bracket(self, doublings: int, bisections: int) -> None:
        """Double the rate until training breaks, or halve it until it holds; then bisect."""
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
        """Return (highest rate that holds below the lowest that breaks, that lowest)."""
        unstable = min((p.lr for p in self.probes.values() if p.unstable), default=None)
        held = [p.lr for p in self.probes.values() if not p.unstable]
        stable = max((lr for lr in held if unstable is None or lr < unstable), default=None)
        return stable, unstable

    def probe(self, lr: float) -> Probe:
        """Train at a rate."""
        recipe = self.recipe.replace(lr=lr)
        run = Run(self.task, recipe, device=self.device, observers=[GradientNorm(name="norm")])
        run.limit_threads(self.first.threads)
        self._go(run, self.steps)
        return self._judge(run)

    def _go(self, run: Run, until: int) -> None:
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

    def result(self, seen: Sequence[Sharpness]) -> Edge:
        stable, unstable = self.ends()
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
            sharpness=tuple(seen),
            formula="" if kind is None else kind.formula,
            cost=self.gradients / whole,
            gradients=self.gradients,
        )
