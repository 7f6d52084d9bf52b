"""Runs whose weights are kept in parts by the processes: each function gets the world."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import etude
from etude import Recipe, Task, optimizers
from etude.distributed import join
from etude.distributed.sharding import whole_weights
from etude.training.train import train
from etude.training.world import World
from tests.distributed.equalities import (
    CASES,
    Case,
    Reader,
    built,
    classes,
    dense,
    numbers,
    recipe,
)
from tests.distributed.resuming import noisy, place, stopped
from tests.distributed.together import error_of


def accumulated_unequal() -> tuple[Task, Recipe]:
    """Unequal weights and several batches in an update."""
    tokens = classes(36, 11, 7)
    targets = tokens.roll(-1, 1).masked_fill(classes(36, 3, 7) != 0, -100)
    task = Task(built(Reader), (tokens, targets), loss=F.cross_entropy)
    return task, recipe(optimizer="adamw", lr=0.003, batch_size=5, accumulate=3)


def layerwise() -> tuple[Task, Recipe]:
    """One layer slower, one frozen, and clipped entries."""
    mult = {"0.weight": 0.3, "0.bias": 0.0, "@linear": 2.0}
    return dense(), recipe(optimizer="adam", lr=0.01, lr_mult=mult, clip_value=0.01)


def percentile() -> tuple[Task, Recipe]:
    return dense(), recipe(clip_percentile=50.0, optimizer={"name": "sgd", "momentum": 0.9})


def early() -> tuple[Task, Recipe]:
    """Stops early, with the best weights."""
    return dense(), recipe(lr=1.0, evaluations=20, early_stopping=2)


class Tied(nn.Module):
    """Reads its output layer's weights from the table; blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x).transpose(1, 2)


def tied() -> tuple[Task, Recipe]:
    tokens = classes(36, 11, 7)
    task = Task(built(Tied), (tokens, tokens.roll(-1, 1)), loss=F.cross_entropy)
    return task, recipe(optimizer="adamw", lr=0.003, batch_size=7)


WHOLE = ("accumulated", "activity", "turns", "closure", "unused")
"""Cases of one process that cannot be sharded, or differ where no gradient counts as 0."""

SHARDED: dict[str, Case] = {
    **{name: case for name, case in CASES.items() if name not in WHOLE},
    **{c.__name__: c for c in (accumulated_unequal, layerwise, percentile, early, tied)},
}


def outcome(case: Case, world: World | None = None) -> dict[str, Any]:
    """Train a case, and return what must not depend on how the weights are kept."""
    task, made = case()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = train(task, made, world=world)
    assert record.model is not None
    return {
        "weights": weights(record),
        "series": {k: v.tolist() for k, v in record.series.items()},
        "evaluations": [(e.step, e.loss, e.metric, e.parts, e.weight) for e in record.evaluations],
        "status": str(record.status),
        "reason": record.reason,
        "gradients": record.cost.gradients,
        "steps": record.cost.steps,
    }


def weights(record: Any) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in whole_weights(record.model, keeps=True).items()}


def tried(function: Any, *given: Any) -> Any:
    import traceback

    try:
        return function(*given)
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        return {"error": error_of(error), "trace": traceback.format_exc()}


def equal(world: World) -> dict[str, Any]:
    parts = join(shard=True)
    return {name: tried(outcome, case, parts) for name, case in SHARDED.items()}


def kept(world: World) -> tuple[int, int, int]:
    """Return how many numbers of weights and moments this process has, and how many there are."""
    sizes: list[tuple[int, int, int]] = []

    def on_step(state: Any) -> None:
        own = sum(p.to_local().numel() for p in state.parameters)
        moments = sum(
            value.to_local().numel()
            for of in state.optimizer.state.values()
            for value in of.values()
            if hasattr(value, "to_local")
        )
        sizes.append((own, moments, sum(p.numel() for p in state.parameters)))

    task, made = CASES["transformer"]()
    train(task, made.replace(steps=2), world=join(shard=True), on_step=on_step)
    return sizes[-1]


# ---- resuming ------------------------------------------------------------------------------------


def same(world: World) -> Any:
    """Return the weights and losses of a whole run, and of one that stopped and went on."""
    parts = join(shard=True)
    whole = train(*noisy(), world=parts)
    stopped(parts, place("same"), *noisy(), 13)
    again = train(noisy()[0], world=parts, folder=place("same"), resume=True)
    losses = whole.series["loss"].tolist(), again.series["loss"].tolist()
    return weights(whole), weights(again), losses, again.cost.steps


def begins(world: World) -> None:
    """Leave a sharded run that has stopped at its update 13, saved at 10."""
    stopped(join(shard=True), place("begun"), *CASES["mlp_adamw_clipped"](), 13)


def goes_on(world: World) -> Any:
    """Go on, sharded, with a run that one process has begun."""
    task = CASES["mlp_adamw_clipped"]()[0]
    record = train(task, world=join(shard=True), folder=place("alone"), resume=True)
    return weights(record), record.cost.steps


# ---- optimizers ----------------------------------------------------------------------------------


def with_optimizer(name: str) -> Case:
    def case() -> tuple[Task, Recipe]:
        row = optimizers.get(name)
        lr = min(row.lr, 0.02)
        return dense(), recipe(optimizer=name, lr=lr, steps=6)

    return case


def every_optimizer(world: World) -> dict[str, Any]:
    """Return the outcome of every optimizer that claims to work, and the refusal of the others."""
    parts = join(shard=True)
    return {name: tried(outcome, with_optimizer(name), parts) for name in optimizers.ROWS}


# ---- refusals ------------------------------------------------------------------------------------


class Direct(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def around() -> tuple[Task, Recipe]:
    """A step that uses a weight without calling the model."""

    def step(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(F.linear(x, model.layers[0].weight)[:, :3], y)

    return Task(built(Direct), (numbers(60, 4), classes(60, 3)), step=step), recipe()


def refused(world: World) -> dict[str, Any]:
    parts = join(shard=True)
    task, made = dense(), recipe()
    found: dict[str, Any] = {}

    def run(one: Task, how: Recipe, **more: Any) -> Any:
        return tried(lambda: train(one, how, world=parts, **more))

    found["penalty"] = run(task, made.replace(l2=0.1))
    found["turns"] = run(*CASES["turns"]())
    found["closure"] = run(*CASES["closure"]())
    found["compress"] = run(task, made.replace(compress="powersgd"))
    found["slices"] = run(task, made.replace(lr_mult={"0.weight[0:2]": 2.0}))
    found["adaptive"] = run(task, made.replace(clip_adaptive=0.1))
    found["rewind"] = run(task, made.replace(spikes="rewind"))
    found["probe"] = run(task, made, probes={"step": lambda state: state.step})
    found["around"] = run(*around())
    found["tune"] = tried(lambda: etude.tune(task, made, 1.5, world=parts, progress=False))
    found["diagnose"] = tried(lambda: etude.diagnose(task, made, world=parts, progress=False))
    found["unused"] = tried(lambda: join(shard=True, find_unused=True))
    scalar = dataclasses.replace(task, model=built(Scalar))
    found["scalar"] = run(scalar, made)
    return found


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = Direct(), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.scale
