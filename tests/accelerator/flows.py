"""What a user does on an accelerator, one function for each thing: `python flows.py LIBRARY`.

Every function prints one line of JSON: its name, and the error that it ended with.
"""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import etude
from etude import Recipe, Task
from etude.engines import train_many
from etude.errors import TaskError
from etude.optimizers import ROWS
from etude.storage.model_weights import load_unsaved
from tests.accelerator.device import NAME, register

RECIPE = Recipe(optimizer="adamw", lr=0.01, steps=40, batch_size=32, evaluations=4)
G = torch.Generator().manual_seed(0)
X = torch.randn(256, 6, generator=G)
Y = (X[:, 0] > 0).long()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


class Convolution(nn.Module):
    """A convolution with batch normalisation over the six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)
        self.head = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.norm(self.conv(x[:, None]))).flatten(1))
        return found


class Sequence(nn.Module):
    """An LSTM over two halves of the six numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.cell(x.view(len(x), 2, 3))[0][:, -1])
        return found


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp, "convolution": Convolution, "sequence": Sequence,
}  # fmt: skip


def task(model: Any = mlp, labels: Tensor = Y, loss: Any = cross_entropy) -> Task:
    return Task(model, (X, labels), loss=loss, metric="accuracy")


def on_both(made: Task, recipe: Recipe = RECIPE) -> None:
    """Train on the CPU and on the device, which computes by the CPU's kernels."""
    here, there = (etude.train(made, recipe, device=d) for d in ("cpu", NAME))
    assert there.environment["device"] == f"{NAME}:0"
    assert here.status == there.status == "finished", there.reason
    for one, other in zip(here.series["loss"], there.series["loss"], strict=True):
        assert abs(one - other) < 1e-4, (one, other)
    assert [e.step for e in here.evaluations] == [e.step for e in there.evaluations]


def train_and_resume(network: str, folder: Path) -> None:
    made = task(NETWORKS[network])
    on_both(made)
    etude.train(made, RECIPE, device=NAME, folder=folder)
    etude.train(made, device=NAME, folder=folder, resume=True, steps=60)
    whole = etude.train(made, RECIPE.replace(steps=60), device=NAME)
    read = etude.Record.load(folder)
    assert read.status == whole.status == "finished"


def tune(network: str, folder: Path) -> None:
    made = task(NETWORKS[network])
    found = etude.tune(made, RECIPE, 3.0, device=NAME, folder=folder, progress=False)
    moved = etude.tune(made, RECIPE, 3.0, device=NAME, memory=1, progress=False)
    assert (found.lr, found.cost) == (moved.lr, moved.cost)
    larger = etude.tune(made, device=NAME, folder=folder, budget=4.0, resume=True, progress=False)
    assert larger.cost >= found.cost


def diagnose(network: str, folder: Path) -> None:
    found = etude.diagnose(
        task(NETWORKS[network]), RECIPE.replace(lr=1e-5), device=NAME, repair=True, progress=False
    )
    assert found.history is not None
    with etude.watch(net := NETWORKS[network]().to(NAME), sgd := torch.optim.SGD(
        net.parameters(), lr=0.1
    ), every=1, on_finding=lambda finding: None) as watched:  # fmt: skip
        for _ in range(20):
            sgd.zero_grad()
            torch.autograd.backward(cross_entropy(net(X.to(NAME)), Y.to(NAME)))
            sgd.step()
    assert watched.report().history is not None


def backprop(network: str, folder: Path) -> None:
    etude.backprop(task(NETWORKS[network]), RECIPE, device=NAME)


def population(folder: Path) -> None:
    long = RECIPE.replace(steps=200)
    found = etude.population(task(), long, device=NAME, folder=folder, progress=False)
    assert found.model is not None


def engines(folder: Path) -> None:
    recipes = [RECIPE.replace(lr=lr) for lr in (1e-3, 3e-3, 1e-2)]
    for engine in ("loop", "vmap", "auto"):
        records = train_many(task(), recipes, engine, device=NAME)
        assert all(record.status == "finished" for record in records)


def labels_out_of_bounds(folder: Path) -> None:
    for bad, rows in ((2, 1), (2, 256), (-1, 1), (-1, 256)):
        labels = Y.clone()
        labels[:rows] = bad
        wrong = task(labels=labels)
        with pytest.raises(TaskError, match="labels are 0 to 1"):
            etude.train(wrong, RECIPE, device=NAME)
        found = etude.diagnose(wrong, RECIPE, device=NAME, progress=False)
        assert "label" in str(found), found


def losses_with_tensors(folder: Path) -> None:
    weight = torch.tensor([0.3, 0.7])
    for loss in (nn.CrossEntropyLoss(weight=weight), partial(cross_entropy, weight=weight)):
        on_both(task(loss=loss))
    assert weight.device.type == "cpu"


def recipes(folder: Path) -> None:
    for fields in (
        {"clip_norm": 1.0}, {"clip_percentile": 90.0}, {"accumulate": 3}, {"label_smoothing": 0.1},
        {"l2": 1e-4}, {"early_stopping": 2}, {"spikes": "zclip"}, {"initialisation": "lsuv"},
        {"lr_mult": "decay(0.8)"}, {"schedule": "plateau()"},
    ):  # fmt: skip
        on_both(task(), RECIPE.replace(**fields))


def optimizers(folder: Path) -> None:
    for name, row in ROWS.items():
        if row.installed and name != "sparse_adam":  # it takes sparse gradients alone
            recipe = RECIPE.replace(optimizer=name, lr=row.lr, steps=8)
            record = etude.train(task(), recipe, device=NAME)
            assert record.status == "finished", (name, record.reason)


def methods(folder: Path) -> None:
    made = task()
    etude.grid(made, RECIPE, lrs=(1e-3, 1e-2), device=NAME, progress=False)
    etude.edge(made, RECIPE.replace(steps=80), device=NAME, progress=False)
    etude.range_test(made, RECIPE, device=NAME, progress=False)
    assert etude.check(made, RECIPE, device=NAME).healthy


def buffers_that_are_not_saved(folder: Path) -> None:
    model = nn.Module()
    model.register_buffer("kept", torch.zeros(2, device=NAME), persistent=False)
    load_unsaved(model, {"kept": torch.ones(2)})
    assert model.kept.device.type == NAME


OF_NETWORKS = (train_and_resume, tune, diagnose, backprop)
OTHERS = (
    population, engines, labels_out_of_bounds, losses_with_tensors, recipes, optimizers, methods,
    buffers_that_are_not_saved,
)  # fmt: skip

FLOWS: dict[str, Callable[[Path], None]] = {
    **{f"{f.__name__} {name}": partial(f, name) for f in OF_NETWORKS for name in NETWORKS},
    **{f.__name__: f for f in OTHERS},
}


def main(library: Path) -> None:
    register(library)
    warnings.simplefilter("ignore")
    for name, flow in FLOWS.items():
        error = ""
        with tempfile.TemporaryDirectory() as folder:
            try:
                flow(Path(folder) / "run")
            except Exception:  # noqa: BLE001 - it is what the test asks for
                error = traceback.format_exc()
        print(json.dumps({"name": name, "error": error}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
