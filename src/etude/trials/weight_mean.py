"""The mean of a trial's weights, evaluated at its pauses: it shows what the decay will reveal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from etude import optimizers
from etude.recipe import Recipe
from etude.record import Evaluation
from etude.tasks.task import Task
from etude.training.clock import clock_of
from etude.training.evaluation.batch_norm_statistics import (
    norms_with_statistics,
    renew_statistics,
)
from etude.training.evaluation.evaluate import evaluate
from etude.training.machine.device import deterministic
from etude.training.machine.threads import use_threads
from etude.training.observer import Observer
from etude.training.state.snapshot import weights_kept
from etude.training.state.state import RunState

WINDOW = 0.02
"""Share of the run over which the weights are averaged."""

SPAN = 5 * WINDOW
"""Share of the run before an evaluation from which samples count; older ones weigh under 1%."""

SAMPLES = 10
"""Samples of the weights in a window."""

SHARES = (3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Where the mean is evaluated. Before, the weights move on too fast for a mean to show anything."""

BATCHES = 20
"""Training batches from which batch statistics are renewed."""


class WeightMean(Observer):
    """Averages the weights before some pauses of a trial, and evaluates the mean there.

        m <- m + (w - m) max(1/k, 1/n)

    at every ``every``-th update of the tenth of the run before a pause, with k the samples so far
    and n those of a window. At the peak of a schedule the noise of the updates raises the
    validation loss, the more the higher the rate; the decay takes that away, and so does the
    mean, without a gradient (Izmailov et al., 2018, arXiv:1803.05407; Sandler et al., 2023,
    arXiv:2301.11312). Batch statistics are renewed from training batches for the mean; those of
    the run are not touched. It holds one copy of the weights. In a run of up to 1/window updates
    the mean is the weights of one update, those that the run evaluates: nothing is computed again.

    Args:
        length: Updates of the whole run.
        window: Share of the run to average over.

    Attributes:
        steps: The updates after which the mean is evaluated.
        evaluations: Of the mean, in order.
    """

    name = "weight_mean"
    reads = ("weights",)
    engines = ("loop", "pool", "vmap")
    own_randomness = False

    def __init__(self, length: int, window: float = WINDOW) -> None:
        updates = max(1.0, window * length)
        super().__init__(every=max(1, int(updates / SAMPLES)))
        self.length, self.window = length, window
        self.samples = max(1.0, updates / self.every)
        self.span = max(1, math.ceil(SPAN / WINDOW * updates))
        self.steps = tuple(sorted({step_at_share(length, share) for share in SHARES} - {0}))
        self.evaluations: list[Evaluation] = []
        self.release()

    def arguments(self) -> Mapping[str, Any]:
        """Return the arguments that build another."""
        return {"length": self.length, "window": self.window}

    def release(self) -> None:
        """Free the copy of the weights; what was evaluated stays."""
        self.target, self.count = 0, 0
        self.mean: list[Tensor] = []

    def next_due(self, update: int) -> int | None:
        """Return the first update from `update` on after which the weights count.

        >>> mean = WeightMean(1_000)
        >>> mean.next_due(0), mean.next_due(300), mean.next_due(375), mean.next_due(750)
        (276, 300, 400, None)
        """
        for target in self.steps:
            if update < target:
                due = super().next_due(max(update, target - self.span))
                if due is not None and due < target:
                    return due
        return None

    def on_update(self, state: RunState) -> None:
        """Add the weights as they are, if an evaluation is near."""
        target = next((step for step in self.steps if step >= state.step), None)
        if target is None or state.step <= target - self.span:
            return
        weights = state.parameters
        if target != self.target:
            self.target, self.count = target, 0
            self.mean = [torch.zeros_like(w, dtype=_wide(w)) for w in weights]
        elif any(m.device != w.device for m, w in zip(self.mean, weights, strict=True)):
            self.mean = [m.to(w.device) for m, w in zip(self.mean, weights, strict=True)]  # read
        self.count += 1
        part = max(1 / self.count, 1 / self.samples)
        for mean, weight in zip(self.mean, weights, strict=True):
            mean.lerp_(weight.to(mean.dtype), part)

    def on_evaluation(self, state: RunState, evaluation: Evaluation) -> None:
        """Evaluate the mean where that is due."""
        if not self.count or state.step != self.target or state.diverged:
            return
        if self._is_the_run(state):
            self.evaluations.append(evaluation)
            self.release()
            return
        # As the run's own evaluations, or bits would depend on the engine, or differ every time.
        kept = weights_kept(state.model, state.parameters)
        same = deterministic(state.device)
        with use_threads(state.threads), same, kept, torch.no_grad():
            for weight, value in zip(state.parameters, self.mean, strict=True):
                weight.copy_(value)
            renew_statistics(state.task, state.model, state.batch_size, state.autocast, BATCHES)
            found = evaluate(
                state.task,
                state.model,
                step=state.step,
                batch_size=max(128, 2 * state.batch_size),
                device=state.device,
                autocast=state.autocast,
            )
        self.evaluations.append(found)
        self.release()

    def _is_the_run(self, state: RunState) -> bool:
        """Return whether the mean is the weights of the run, and is evaluated as they are."""
        alone = self.samples == 1.0 and self.every == 1 and state.world.size == 1
        return alone and not norms_with_statistics(state.model)

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation of the mean after `step` updates, if there was one."""
        return next((e for e in reversed(self.evaluations) if e.step == step), None)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied, or sent to a process that does not see this one's GPU."""
        return {**vars(self), "mean": [mean.cpu() for mean in self.mean]}

    def state(self) -> dict[str, Any]:
        """Return the mean, and what was seen of it."""
        return {
            "target": self.target,
            "count": self.count,
            "mean": self.mean,
            "evaluations": [asdict(e) for e in self.evaluations],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.target, self.count = state["target"], state["count"]
        self.mean = list(state["mean"])
        self.evaluations = [Evaluation.of(e) for e in state["evaluations"]]


def weight_mean(task: Task, recipe: Recipe) -> list[WeightMean]:
    """Return what averages the weights of a run; nothing where its optimizer does so itself."""
    if optimizers.get(recipe.optimizer.name).eval_mode:
        return []
    return [WeightMean(clock_of(task, recipe).horizon)]


def step_at_share(length: int, share: float) -> int:
    """Return the update at a share of a run, rounded down so that it costs no more.

    >>> step_at_share(100, 3 / 8)
    37
    """
    return math.floor(length * share + 1e-9)


def _wide(weight: Tensor) -> torch.dtype:
    """Return a type of 32 bits or more: steps of a mean are lost in half precision."""
    return torch.promote_types(weight.dtype, torch.float32)
