"""The tasks that ways of choosing a rate are compared on: the bundled ones, and harder kin.

`DEVELOPMENT` was looked at while the tuner was made; `HELD` never was, and is reported apart. The
kin cost little and are hard: few samples and wrong labels overfit, so that the rate that is best
early is not the one that is best at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from etude import tasks
from etude.tasks.task import Task


def _kin(
    base: str,
    *,
    samples: int | None = None,
    wrong: float = 0.0,
    model: dict[str, Any] | None = None,
    **recipe: Any,
) -> Task:
    """Return a bundled task with fewer training samples, wrong labels, or another recipe."""
    task = tasks.get(base, **(model or {}))
    inputs, targets = task.train.tensors
    draw = torch.Generator().manual_seed(0)
    if samples is not None:
        kept = torch.randperm(len(inputs), generator=draw)[:samples]
        inputs, targets = inputs[kept], targets[kept]
    if wrong:
        lots = torch.rand(len(targets), generator=draw) < wrong
        shuffled = targets[torch.randperm(len(targets), generator=draw)]
        targets = torch.where(lots, shuffled, targets)
    return Task(
        task.model,
        (inputs, targets),
        valid=task.valid,
        loss=task.loss,
        metric=task.metric,
        defaults={**task.defaults, **recipe},
    )


SGD = {"name": "sgd", "momentum": 0.9}
PLAIN = {"name": "sgd", "momentum": 0.0}
HALF = "warmup('5%') >> constant(length='65%') >> linear()"

KIN: dict[str, Callable[[], Task]] = {
    "few-digits-mlp": partial(_kin, "digits-mlp", samples=150, steps=600, batch_size=32),
    "noisy-digits-mlp": partial(_kin, "digits-mlp", wrong=0.3, steps=1500),
    "noisy-digits-cnn": partial(_kin, "digits-cnn", wrong=0.2, steps=500, optimizer=SGD),
    "diabetes-adamw": partial(_kin, "diabetes-mlp", steps=500, optimizer="adamw", batch_size=32),
    "digits-rmsprop": partial(
        _kin, "digits-mlp", steps=800, optimizer="rmsprop", schedule="constant()"
    ),
    "digits-plain-sgd": partial(
        _kin, "digits-mlp", steps=1000, optimizer=PLAIN, model={"depth": 1, "width": 64}
    ),
    "digits-wsd": partial(_kin, "digits-cnn", samples=600, steps=500, schedule=HALF),
    "few-digits-resnet": partial(_kin, "digits-resnet", samples=300, steps=200),
    "few-digits-gru": partial(_kin, "digits-gru", samples=150, steps=500),
    "noisy-patches-cnn": partial(_kin, "patches-cnn", wrong=0.3, samples=1500, steps=500),
    "noisy-cancer": partial(_kin, "cancer-mlp", wrong=0.2, steps=800, optimizer="adamw"),
    "digits-mlp-sgd": partial(_kin, "digits-mlp", steps=1000, optimizer=SGD, schedule="constant()"),
}

HELD = (
    "cancer-mlp",
    "digits-deep-mlp",
    "digits-gru",
    "digits-transformer",
    "patches-resnet",
    "text-gru",
    "few-digits-gru",
    "noisy-patches-cnn",
    "noisy-cancer",
    "digits-mlp-sgd",
)
"""A third and more of the tasks: no choice in the tuner was made by looking at them."""

BUNDLED = tuple(
    row.name for row in tasks.rows() if row.data not in ("mnist", "cifar10", "imagenet")
)
NAMES = (*BUNDLED, *KIN)
DEVELOPMENT = tuple(name for name in NAMES if name not in HELD)


def get(name: str) -> Task:
    """Return a task of the contest."""
    return KIN[name]() if name in KIN else tasks.get(name)
