"""The runs: bundled tasks whose rate is raised until they break, and runs that should not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from etude import Recipe, Task, tasks
from etude.tasks.sources.data import TensorData

SGD, MOMENTUM, ADAM = {"name": "sgd"}, {"name": "sgd", "momentum": 0.9}, {"name": "adamw"}
TASKS = (
    "cancer-mlp",
    "diabetes-mlp",
    "digits-autoencoder",
    "digits-deep-mlp",
    "digits-mlp",
    "digits-rnn",
)
OPEN = ("diabetes-mlp", "digits-autoencoder", "digits-mlp")
"""The tasks on which our rule was designed; the others were looked at when it was fixed."""

STEPS = 400
RAMP, STEEP = "exponential(1.0135)", "exponential(1.02)"
"""The rate grows 200 times, or 2,700 times, in 400 updates."""

USUAL = {"sgd": 0.02, "momentum": 0.005, "adamw": 0.001}
"""Rates at which these tasks train."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: Task, optimizer and fault, joined by slashes.
        task: The task's name.
        fault: 'ramp', 'steep', 'unscaled', 'high' (without warmup) or 'none'.
        recipe: How it is trained.
        scale: What the targets are multiplied with.
    """

    name: str
    task: str
    fault: str
    recipe: Recipe
    scale: float = 1.0

    def build(self) -> Task:
        """Return the task, with its targets multiplied."""
        task = tasks.get(self.task)
        if self.scale == 1.0:
            return task
        data = task.train
        assert isinstance(data, TensorData)
        inputs, targets = data.tensors
        assert isinstance(targets, Tensor)
        return Task(
            task.model,
            (inputs, self.scale * targets),
            valid=(inputs[:32], self.scale * targets[:32]),
            loss=task.loss,
            name=task.name,
        )


def cases() -> list[Case]:
    """Return every run, those whose rate is raised first."""
    found: list[Case] = []
    for task in TASKS:
        for name, optimizer in (("sgd", SGD), ("momentum", MOMENTUM), ("adamw", ADAM)):
            base = Recipe(
                optimizer=optimizer,
                lr=USUAL[name],
                schedule="constant()",
                steps=STEPS,
                batch_size=32 if task in ("cancer-mlp", "diabetes-mlp") else 64,
                evaluations=1,
            )
            found += [
                Case(f"{task}/{name}/{what}", task, what.split()[0], recipe)
                for what, recipe in _of(name, base).items()
            ]
    for name, optimizer, rate in (("sgd", SGD, 0.001), ("adamw", ADAM, 0.01)):
        recipe = Recipe(
            optimizer=optimizer,
            lr=rate,
            schedule=RAMP,
            steps=STEPS,
            batch_size=32,
            evaluations=1,
            seed=5,
        )
        found.append(
            Case(f"diabetes-mlp/{name}/unscaled", "diabetes-mlp", "unscaled", recipe, scale=50.0)
        )
    order = ("ramp", "steep", "unscaled", "high", "none")
    return sorted(found, key=lambda case: order.index(case.fault))


def _of(name: str, base: Recipe) -> dict[str, Recipe]:
    """Return the runs of one task and optimizer, by fault and note."""
    runs = {
        "ramp": base.replace(schedule=RAMP),
        "steep": base.replace(schedule=STEEP, seed=6),
        "none usual": base,
        "none 4x with warmup": base.replace(
            lr=4 * base.lr, schedule="warmup('10%') >> cosine()", seed=1
        ),
    }
    if name == "sgd":
        runs["none edge of stability"] = base.replace(batch_size="all", lr=0.2, steps=300)
        runs["none batches of 4"] = base.replace(batch_size=4, seed=3)
    else:
        runs["high 40x without warmup"] = base.replace(lr=40 * base.lr, seed=2)
    if name == "momentum":
        runs["ramp batch 256"] = base.replace(schedule=RAMP, seed=4, batch_size=256)
    return runs
