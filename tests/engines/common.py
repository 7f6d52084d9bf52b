"""What the tests of the engines share: small tasks, and how to hold two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from etude import Recipe, Task
from etude.engines import Engine, LoopEngine
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from tests.helpers import data, mlp, noisy, task

__all__ = [
    "BASE", "SGD", "assert_close", "both", "counting", "data", "mlp", "noisy", "numbers",
    "quarters", "runs_of", "same_bits", "task",
]  # fmt: skip

SGD = {"name": "sgd", "momentum": 0.9}
BASE = Recipe(optimizer=SGD, lr=0.05, steps=20, batch_size=16)


def runs_of(of: Task, recipes: Sequence[Recipe]) -> list[Run]:
    runs = [Run(of, recipe) for recipe in recipes]
    for run in runs:
        run.check()
    return runs


def quarters(state: RunState) -> set[int]:
    return state.evenly_spaced(4)


def both(
    of: Task, recipes: Sequence[Recipe], engine: Engine, stops: Sequence[int | None] = (None,)
) -> tuple[list[Run], list[Run]]:
    """Train by an engine, pausing now and then, and by the loop at one go."""
    ours, theirs = runs_of(of, recipes), runs_of(of, recipes)
    for until in stops:
        engine.advance(ours, AdvanceRequest(until, evaluation_steps=quarters))
    LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
    return ours, theirs


def numbers(run: Run) -> Tensor:
    """Return the weights, the buffers and what the optimizer remembers, as one row."""
    states = [state for _, state in sorted(run.optimizer.state_dict()["state"].items())]
    tensors = [
        *run.model.state_dict().values(),
        *(v for state in states for _, v in sorted(state.items()) if isinstance(v, Tensor)),
    ]
    return torch.cat([t.detach().double().flatten() for t in tensors])


def same_bits(one: Run, other: Run) -> bool:
    return (
        one.step == other.step
        and one.status == other.status
        and one.reason == other.reason
        and one.series == other.series
        and one.evaluations == other.evaluations
        and torch.equal(numbers(one), numbers(other))
    )


def assert_close(one: Run, other: Run, tolerance: float = 1e-3) -> None:
    """The stated tolerance: of losses absolutely, of weights and moments as a share of norms."""
    assert (one.step, one.status, one.reason) == (other.step, other.status, other.reason)
    assert one.series.keys() == other.series.keys()
    for name, values in one.series.items():
        assert len(values) == len(other.series[name])
        for a, b in zip(values, other.series[name], strict=True):
            assert abs(a - b) <= tolerance * max(1.0, abs(b)), name
    assert [e.step for e in one.evaluations] == [e.step for e in other.evaluations]
    for mine, theirs in zip(one.evaluations, other.evaluations, strict=True):
        assert abs(mine.loss - theirs.loss) <= tolerance * max(1.0, abs(theirs.loss))
    a, b = numbers(one), numbers(other)
    assert a.shape == b.shape
    assert float((a - b).norm()) <= tolerance * max(1.0, float(b.norm()))


def counting(limit: int) -> Callable[[], bool]:
    """Return a stop that is true from the `limit`-th question on."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > limit

    return stop
