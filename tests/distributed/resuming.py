"""Runs that stop and go on, in one number of processes or another: each function gets the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from etude import Recipe, Task
from etude.training.train import train
from etude.training.world import World
from tests.distributed.equalities import CASES, built, classes, numbers, recipe
from tests.helpers import task as small

FOLDER = "ETUDE_TEST_FOLDER"


def noisy() -> tuple[Task, Recipe]:
    """A run with dropout, whose masks are of each process."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Dropout(0.3), nn.Linear(9, 3))

    task = Task(built(make), (numbers(60, 4), classes(60, 3)), loss=F.cross_entropy)
    return task, recipe(optimizer="adamw", lr=0.01, steps=24)


class StopError(Exception):
    """What the test stops a run with."""


def stopped(world: World, folder: Path, task: Task, made: Recipe, at: int) -> None:
    """Train in a folder until an update is done, then fail everywhere."""

    def on_step(state: Any) -> None:
        if state.step == at:
            raise StopError

    try:
        train(task, made, world=world, folder=folder, checkpoint_every=5, on_step=on_step)
    except StopError:
        return
    raise AssertionError("it went on")


def place(name: str) -> Path:
    import os

    return Path(os.environ[FOLDER]) / name


def weights(record: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in record.model.state_dict().items()}


def same_world(world: World) -> Any:
    """Return the weights of a whole run, and of one that stopped and went on."""
    whole = train(*noisy(), world=world)
    stopped(world, place("same"), *noisy(), 13)
    again = train(noisy()[0], world=world, folder=place("same"), resume=True)
    losses = whole.series["loss"].tolist(), again.series["loss"].tolist()
    return weights(whole), weights(again), losses, again.cost.steps


def begins(world: World) -> Any:
    """Leave a run that has stopped at its update 13, saved at 10."""
    stopped(world, place("other"), *CASES["cnn"](), 13)


def goes_on(world: World) -> Any:
    """Go on with a run of another number of processes."""
    record = train(CASES["cnn"]()[0], world=world, folder=place("other"), resume=True)
    return weights(record), record.cost.steps


def tuned(world: World) -> Any:
    """Every process of a tuning takes the same decisions, and returns the same model."""
    from etude import tune

    base = Recipe(optimizer="adamw", steps=48, batch_size=16)
    best = tune(small(), base, 1.5, world=world, folder=place("tuned"), progress=False, watch=False)
    assert best.model is not None
    found = {name: value.clone() for name, value in best.model.state_dict().items()}
    return best.lr, best.tied, [t.lr for t in best.trials], found


def diagnosed(world: World) -> Any:
    """Every process of a diagnosis gets the same findings."""
    from etude import diagnose

    base = Recipe(optimizer="sgd", lr=0.1, steps=40, batch_size=16)
    found = diagnose(small(), base, world=world, progress=False, probes=0)
    return str(found), [one.what for one in found.findings]
