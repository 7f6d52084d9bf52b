"""Loops whose best rate is known, in each of the forms that `tune_loop` takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from etude import Recipe, Task
from etude.measure.gradient_scale import scaled
from etude.optimizers.prior import centre_of
from etude.training.request import AdvanceRequest
from etude.training.run import Run

STEPS = 96


def fall(w: float, lr: float) -> float:
    """One update of (w - 1)², with noise from the global state: a pause must not lose it."""
    return w - lr * 2 * (w - 1) + 0.01 * float(torch.rand(()) - 0.5)


def loss(w: float) -> float:
    return (w - 1) ** 2 if abs(w) < 1e100 else math.inf


def yielding(lr: float) -> Iterator[tuple[int, float, float]]:
    w = 3.0
    yield 0, loss(w)
    for step in range(1, STEPS + 1):
        before, w = w, fall(w, lr)
        yield step, loss(w), loss(before)
    return w


def resuming(lr: float, report: Any, resume: Any) -> float:
    done, w = resume or (0, 3.0)
    if not done:
        report(0, loss(w))
    for step in range(done + 1, STEPS + 1):
        before, w = w, fall(w, lr)
        report(step, loss(w), training=loss(before), state=(step, w))
    return w


def restarting(lr: float, report: Any) -> float:
    w = 3.0
    report(0, loss(w))
    for step in range(1, STEPS + 1):
        before, w = w, fall(w, lr)
        report(step, loss(w), training=loss(before))
    return w


def unbroken(lr: float, seed: int = 0) -> float:
    """What such a loop ends with that nobody pauses."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        w = 3.0
        for _ in range(STEPS):
            w = fall(w, lr)
    return w


def loop_of(task: Task, recipe: Recipe) -> Callable[[float], Iterator[tuple[Any, ...]]]:
    """Return the loop that `tune` runs at each rate, as a generator of anyone's own."""

    def train(lr: float) -> Iterator[tuple[Any, ...]]:
        run = Run(task, recipe.replace(lr=lr))
        yield 0, lambda: run.evaluate().parts
        for step in range(1, run.length + 1):
            run.advance(AdvanceRequest(step))
            if run.diverged:
                yield step, math.nan
            yield step, lambda: run.evaluate().parts, run.series["loss"][-1]
        return run.model

    return train


def centre(task: Task, recipe: Recipe) -> float:
    """The rate around which `tune` begins."""
    prior = centre_of(task.build(), task.train.targets(), recipe.optimizer)
    return float(10 ** scaled(prior, Run(task, recipe)))
