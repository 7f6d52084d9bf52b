"""What the processes of `test_in_world.py` do: each function gets the world, in every process."""

from __future__ import annotations

import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, train, tune
from etude.errors import EtudeError
from etude.training.world import World
from tests.helpers import data, mlp

METHODS = (
    "fp16", "bf16", "powersgd", "topk(ratio=0.05)", "local-sgd(period=4)", "diloco(inner=6)",
)  # fmt: skip
STEPS, SAVED, BROKEN = 20, 9, 15


def wide(norm: type[nn.Module] = nn.Identity) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 40), norm(40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 2)
    )


def task(model: Any = wide) -> Task:
    return Task(model, data(240), loss=cross_entropy, metric="accuracy")


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"lr": 0.01, "steps": STEPS, "batch_size": 16, "evaluations": 4, **fields})


def weights(model: nn.Module | None) -> torch.Tensor:
    assert model is not None
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def shared_folder(world: World) -> Path:
    return Path(world.from_main(tempfile.mkdtemp))


class BrokenError(EtudeError):
    """Stops a run in its middle, in every process."""


def resumed(world: World) -> dict[str, Any]:
    """Return the weights of runs that were broken and went on, beside those that were not."""
    found = {}

    def breaks(state: Any) -> None:
        if state.step == BROKEN:
            raise BrokenError("broken")

    # The norms by which it clips are those of its own gradients in each process.
    clipped = {"local-sgd(period=4) clipped": recipe(compress="local-sgd", clip_percentile=20)}
    runs = {method: recipe(compress=method) for method in METHODS}
    for method, asked in {**runs, **clipped}.items():
        whole = train(task(), asked, world=world)
        folder = shared_folder(world)
        with suppress(BrokenError):
            train(task(), asked, world=world, folder=folder, checkpoint_every=SAVED, on_step=breaks)
        world.barrier()
        again = train(task(), asked, world=world, folder=folder, resume=True)
        found[method] = {
            "whole": weights(whole.model),
            "again": weights(again.model),
            "evaluations": [e.loss for e in whole.evaluations],
            "notes": whole.notes,
            "notes_again": again.notes,
        }
    return found


def refused(world: World) -> list[str]:
    """Return the errors of runs that cannot exchange as they say."""

    def scalar() -> nn.Module:
        model = mlp()
        model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
        return model

    def sparse() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(10, 6, sparse=True), nn.Linear(6, 2))

    words = Task(
        sparse, (torch.randint(0, 10, (64, 3)), torch.zeros(64).long()), loss=cross_entropy
    )
    wrong: list[tuple[Task, dict[str, Any]]] = [
        (task(), {"compress": "powersgd", "optimizer": "lbfgs"}),
        (task(), {"compress": "diloco", "early_stopping": 2}),
        (task(), {"compress": "topk", "spikes": "skip"}),
        (task(scalar), {"compress": "powersgd"}),
        (words, {"compress": "topk", "optimizer": "sgd"}),
    ]
    said = []
    for of, fields in wrong:
        try:
            train(of, recipe(**fields), world=world)
            said.append("trained")
        except EtudeError as error:
            said.append(str(error))
    return said


def overflowed(world: World) -> dict[str, Any]:
    """Return runs in float16 whose gradients overflow in some updates of one process."""
    inputs, labels = data(240)
    inputs[::60] *= 400
    found = {}
    for method in ("powersgd", "topk(ratio=0.05)", "local-sgd(period=4)"):
        of = Task(wide, (inputs, labels), loss=cross_entropy)
        record = train(of, recipe(compress=method, precision="float16"), world=world)
        found[method] = {
            "weights": weights(record.model),
            "status": str(record.status),
            "overflows": sum(record.series["overflows"]),
        }
    return found


def normalised(world: World) -> dict[str, Any]:
    """Return the state of a network with batch normalisation after a local method."""
    record = train(
        task(lambda: wide(nn.BatchNorm1d)), recipe(compress="diloco(inner=6)"), world=world
    )
    assert record.model is not None
    return {k: v.clone() for k, v in record.model.state_dict().items()}


def tuned(world: World) -> dict[str, Any]:
    """Return what a tuning over the rate and the compression chose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = tune(task(), recipe(steps=40), budget=3.0, progress=False, world=world,
                    over={"compress": ["none", "topk(ratio=0.1)"]})  # fmt: skip
    assert best.selection is not None
    return {
        "lr": best.lr,
        "compress": repr(best.recipe.compress),
        "tried": [(str(one.values["compress"]), one.lr) for one in best.selection.tried],
        "weights": weights(best.model),
    }
