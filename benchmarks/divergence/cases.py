"""The runs: bundled tasks whose rate is raised until they break, and runs that should not."""

from __future__ import annotations

from dataclasses import dataclass

from etude import Recipe, Task, tasks
from etude.tasks.data import TensorData

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
GROWTH = 1.0135
"""The factor of the rate from update to update: 200 times in 400 updates."""

USUAL = {"sgd": 0.02, "momentum": 0.005, "adamw": 0.001}
"""Rates at which these tasks train."""


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        name: Task, optimizer and fault, joined by slashes.
        task: The task's name.
        fault: 'ramp', 'high', 'unscaled' or 'none'.
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
        return Task(
            task.model,
            (inputs, self.scale * targets),
            valid=(inputs[:32], self.scale * targets[:32]),
            loss=task.loss,
            name=task.name,
        )


def cases() -> list[Case]:
    """Return every run."""
    found = []
    for task in TASKS:
        size = 32 if task in ("cancer-mlp", "diabetes-mlp") else 64
        for name, optimizer in (("sgd", SGD), ("momentum", MOMENTUM), ("adamw", ADAM)):
            base = Recipe(
                optimizer=optimizer,
                lr=USUAL[name],
                schedule="constant()",
                steps=STEPS,
                batch_size=size,
                evaluations=1,
            )
            ramp = f"exponential({GROWTH})"

            def add(fault: str, recipe: Recipe, note: str = "", scale: float = 1.0) -> None:
                label = f"{task}/{name}/{fault}{note}"
                found.append(Case(label, task, fault, recipe, scale))

            add("ramp", base.replace(schedule=ramp))
            add("none", base, " usual")
            warm = "warmup('10%') >> cosine()"
            add("none", base.replace(lr=4 * base.lr, schedule=warm, seed=1), " 4x with warmup")
            if name != "sgd":
                add("high", base.replace(lr=40 * base.lr, seed=2), " 40x without warmup")
            if name == "sgd":
                add("none", base.replace(batch_size="all", lr=0.2, steps=300), " edge of stability")
                add("none", base.replace(batch_size=4, seed=3), " batches of 4")
            if name == "momentum":
                add("ramp", base.replace(schedule=ramp, seed=4, batch_size=256), " batch 256")
        if task == "diabetes-mlp":
            for name, optimizer, rate in (("sgd", SGD, 0.001), ("adamw", ADAM, 0.01)):
                recipe = Recipe(
                    optimizer=optimizer, lr=rate, steps=STEPS, batch_size=32, evaluations=1,
                    schedule=ramp, seed=5,
                )  # fmt: skip
                found.append(Case(f"{task}/{name}/unscaled", task, "unscaled", recipe, scale=50.0))
    return found
