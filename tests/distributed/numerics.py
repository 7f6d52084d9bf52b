"""Runs whose numbers are hard on several processes: 16-bit weights, lone samples, idle experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etude import Recipe, Task
from etude.training.train import train
from etude.training.world import World
from tests.distributed.equalities import built, classes, convolutional, numbers, recipe
from tests.distributed.failing import caught

WAYS = ("none", "fp16", "bf16", "powersgd", "topk(ratio=0.2)", "local-sgd(period=3)",
        "diloco(inner=4)")  # fmt: skip
FEW = ("none", "powersgd", "topk(ratio=0.2)")


def trained(task: Task, made: Recipe, world: World) -> dict[str, Any]:
    record = train(task, made, world=world)
    assert record.model is not None
    return {
        "weights": {k: v.clone() for k, v in record.model.state_dict().items()},
        "losses": record.series["loss"].tolist(),
        "valid": [e.loss for e in record.evaluations],
        "status": str(record.status),
    }


# ---- one sample for each process ---------------------------------------------------------------


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3))


def lone_case(size: int) -> tuple[Task, Recipe]:
    data = numbers(40, 4), classes(40, 3)
    return Task(built(normed), data, loss=F.cross_entropy), recipe(batch_size=size, steps=8)


def lone_samples(world: World) -> Any:
    return trained(*lone_case(2), world)


def lone_images_case() -> tuple[Task, Recipe]:
    data = numbers(30, 1, 6, 6), classes(30, 3)
    return Task(built(convolutional), data, loss=F.cross_entropy), recipe(batch_size=2, steps=8)


def lone_images(world: World) -> Any:
    return trained(*lone_images_case(), world)


def lone_apart(world: World) -> Any:
    """Between two exchanges a process normalises its own share, which is one value."""
    task, made = lone_case(2)
    return caught(lambda: train(task, made.replace(compress="local-sgd(start=3)"), world=world))


# ---- numbers of 16 bits ------------------------------------------------------------------------


class Mixed(nn.Module):
    """Layers of several types, as where a head is kept in float32."""

    def __init__(self, first: torch.dtype, second: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(4, 64).to(first)
        self.second, self.third = nn.Linear(64, 64).to(second), nn.Linear(64, 3).to(second)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x.to(self.first.weight.dtype)))
        return self.third(torch.tanh(self.second(hidden.to(self.second.weight.dtype)))).float()


PAIRS = {
    "low": (torch.bfloat16, torch.float32),
    "high": (torch.float32, torch.bfloat16),
    "half": (torch.float16, torch.float32),
}


def mixed_case(pair: str, way: str) -> tuple[Task, Recipe]:
    data = numbers(60, 4).float(), classes(60, 3)
    task = Task(lambda: Mixed(*PAIRS[pair]), data, loss=F.cross_entropy)
    return task, recipe(compress=way, lr=0.1, steps=12, clip_norm=1.0)


PAIRED = [("low", way) for way in WAYS] + [(p, way) for p in ("high", "half") for way in FEW[1:]]


def mixed(world: World) -> Any:
    """Return what every way gives with weights of two types."""
    return {(pair, way): trained(*mixed_case(pair, way), world) for pair, way in PAIRED}


def autocast_case() -> tuple[Task, Recipe]:
    data = numbers(60, 4).float(), classes(60, 3)
    return Task(normed, data, loss=F.cross_entropy), recipe(precision="bfloat16", steps=12)


def autocast(world: World) -> Any:
    return trained(*autocast_case(), world)


# ---- parameters that some processes do not reach -------------------------------------------------


class Experts(nn.Module):
    """Sends each sample to one of two experts; a share may have no sample for one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        found = x.new_zeros(len(x), 3)
        for index, expert in enumerate(self.experts):
            mine = (x[:, 0] > 1).long() == index
            if bool(mine.any()):
                found = found.index_put((mine.nonzero().squeeze(1),), expert(x[mine]))
        return found


def experts_case(**fields: Any) -> tuple[Task, Recipe]:
    data = numbers(60, 4), classes(60, 3)
    made = recipe(batch_size=4, steps=12, optimizer={"name": "sgd", "momentum": 0.9}, **fields)
    return Task(built(Experts), data, loss=F.cross_entropy), made


def experts(world: World) -> Any:
    """Return what every way gives where an idle expert's gradient counts as 0."""
    world.find_unused = True  # type: ignore[attr-defined]
    try:
        return {way: trained(*experts_case(compress=way), world) for way in FEW}
    finally:
        world.find_unused = False  # type: ignore[attr-defined]


def experts_unasked(world: World) -> Any:
    """The first update reaches one expert in no process, so that later ones may differ."""
    return trained(*experts_case(), world)


CASES: dict[str, Callable[[], tuple[Task, Recipe]]] = {
    "lone_samples": lambda: lone_case(2),
    "lone_images": lone_images_case,
}
"""Cases that equal one process."""
