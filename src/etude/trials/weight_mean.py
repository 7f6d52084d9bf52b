"""The mean of a trial's weights, evaluated at its pauses: it shows what the decay will reveal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from etude import optimizers
from etude.recipe import Recipe
from etude.record import Evaluation
from etude.tasks.task import Task
from etude.training.batch_norm_statistics import renew_statistics
from etude.training.clock import clock_of
from etude.training.evaluate import evaluate
from etude.training.observer import Observer
from etude.training.snapshot import Buffers
from etude.training.state import RunState

WINDOW = 0.02
"""Share of the run over which the weights are averaged."""

SAMPLES = 10
"""Samples of the weights in a window."""

BATCHES = 20
"""Training batches from which batch statistics are renewed."""


class WeightMean(Observer):
    """Keeps an exponential mean of the weights, and evaluates it where the run is evaluated.

        m ← m + (w - m)·max(1/k, 1/n)

    at every ``every``-th update, with k the samples so far and n those of a window. At the peak of
    a schedule the noise of the updates lifts the validation loss, the more the higher the rate;
    the decay takes that away, and so does the mean, without a gradient (Izmailov et al., 2018,
    arXiv:1803.05407; Sandler et al., 2023, arXiv:2301.11312). Batch statistics are renewed
    from training batches for the mean; the run's own are not touched.

    It holds one copy of the weights. At the end of a run nothing is averaged: the weights
    themselves are delivered.

    Args:
        length: Updates of the whole run.
        window: Share of it to average over.

    Attributes:
        evaluations: Of the mean, in order.
    """

    name = "weight_mean"
    reads = ("weights",)
    engines = ("loop", "pool", "vmap")

    def __init__(self, length: int, window: float = WINDOW) -> None:
        updates = max(1.0, window * length)
        super().__init__(every=max(1, int(updates / SAMPLES)))
        self.samples = max(1.0, updates / self.every)
        self.count = 0
        self.mean: list[Tensor] = []
        self.evaluations: list[Evaluation] = []

    def on_update(self, state: RunState) -> None:
        """Add the weights as they are."""
        weights = state.parameters
        if not self.mean:
            self.mean = [torch.zeros_like(w, dtype=_wide(w)) for w in weights]
        self.count += 1
        part = max(1 / self.count, 1 / self.samples)
        for mean, weight in zip(self.mean, weights, strict=True):
            mean.lerp_(weight.to(mean.dtype), part)

    def on_evaluation(self, state: RunState, evaluation: Evaluation) -> None:
        """Evaluate the mean, between the start of the run and its end."""
        if not self.count or state.step >= state.length or state.diverged:
            return
        with self._in_place(state):
            found = evaluate(
                state.task,
                state.model,
                step=state.step,
                batch_size=max(128, 2 * state.batch_size),
                device=state.device,
                autocast=state.autocast,
            )
        self.evaluations.append(found)

    @contextmanager
    def _in_place(self, state: RunState) -> Iterator[None]:
        """Let the model have the mean as its weights for a block."""
        kept = [weight.detach().clone() for weight in state.parameters]
        buffers = Buffers(state.model)
        _write(state.parameters, self.mean)
        try:
            renew_statistics(state.task, state.model, state.batch_size, state.autocast, BATCHES)
            yield
        finally:
            _write(state.parameters, kept)
            with torch.no_grad():
                buffers.restore()

    def at(self, step: int) -> Evaluation | None:
        """Return the evaluation of the mean after `step` updates, if there was one."""
        return next((e for e in reversed(self.evaluations) if e.step == step), None)

    def state(self) -> dict[str, Any]:
        """Return the mean, and what was seen of it."""
        return {
            "count": self.count,
            "mean": self.mean,
            "evaluations": [asdict(e) for e in self.evaluations],
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.count = state["count"]
        self.mean = list(state["mean"])
        self.evaluations = [Evaluation.of(e) for e in state["evaluations"]]


def weight_mean(task: Task, recipe: Recipe) -> list[WeightMean]:
    """Return what averages the weights of a run; nothing where its optimizer does so itself."""
    if optimizers.get(recipe.optimizer.name).eval_mode:
        return []
    return [WeightMean(clock_of(task, recipe).horizon)]


def _wide(weight: Tensor) -> torch.dtype:
    """Return a type of 32 bits or more: steps of a mean are lost in half precision."""
    return torch.promote_types(weight.dtype, torch.float32)


def _write(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
