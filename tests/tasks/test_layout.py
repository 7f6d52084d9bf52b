"""What a model is fed lies in torch's default layout, from the file to every convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from etude import Recipe, Task
from etude.engines import train_many
from etude.tasks import get, rows
from etude.tasks.bundled.examples import Examples
from etude.tasks.models import cnn, resnet
from etude.tasks.sources.data import Cursor
from etude.training.checks.check import leaves
from etude.training.checks.convolutions import channels_last
from etude.training.run import Run

BUNDLED = [row.name for row in rows() if "bundled" in row.factory.data]
IMAGES = ["digits-cnn", "digits-resnet", "patches-cnn", "patches-resnet"]


PLACES = {torch.ops.aten.convolution.default: 0, torch.ops.aten.convolution_backward.default: 1}
"""Where the arguments input and weight stand."""


class Convolutions(TorchDispatchMode):
    """Keeps the layout of every convolution's input and weight, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        first = PLACES.get(function)
        if first is not None:
            x, weight = args[first : first + 2]
            self.seen += [channels_last(t) for t in (x, weight) if t.shape[1] > 1]
        return function(*args, **(kwargs or {}))


def batches(data: Any) -> list[Any]:
    fed = [next(data.stream(8, 3, Cursor())), next(iter(data.sweep(8)))[0]]
    return [*fed, data.take(torch.tensor([5, 0, 3]))] if hasattr(data, "take") else fed


def assert_contiguous(task: Task) -> None:
    for data in (task.train, task.valid):
        tensors = [*leaves(getattr(data, "tensors", ())), *leaves(batches(data))]
        assert tensors
        for tensor in tensors:
            assert tensor.is_contiguous(), tensor.stride()


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_task_feeds_contiguous_tensors(name):
    assert_contiguous(get(name))
    part, held = get(name).train.split(0.3)
    for data in (part, held):
        assert all(t.is_contiguous() for t in leaves(batches(data)))


def test_a_source_may_cut_as_it_likes():
    images = torch.randn(6, 8, 8, 3).permute(0, 3, 1, 2)
    held = Examples((images, torch.arange(6)), images.unfold(2, 4, 2).permute(0, 1, 2, 4, 3))
    for given, kept in ((images, held.train[0]), (images.unfold(2, 4, 2).mT, held.valid)):
        assert kept.is_contiguous()
        assert torch.equal(given, kept)


@pytest.mark.parametrize("engine", ["loop", "vmap"])
@pytest.mark.parametrize("name", IMAGES)
def test_no_convolution_of_a_bundled_task_sees_channels_last(name, engine):
    whole = get(name)
    few = torch.arange(16)
    task = replace(whole, train=whole.train.part(few), valid=whole.valid.part(few))
    given = {**task.defaults, "steps": 2, "evaluations": 1, "batch_size": 8}
    recipes = [Recipe(**{**given, "lr": lr}) for lr in (0.001, 0.01)]
    with Convolutions() as convolutions:
        train_many(task, recipes, engine=engine)
    assert len(convolutions.seen) > 8
    assert not any(convolutions.seen)


@pytest.mark.parametrize("model", [cnn, resnet])
def test_a_bundled_model_takes_channels_last_images_and_computes_without(model):
    def build() -> torch.nn.Module:
        size = {"size": 8} if model is cnn else {}
        return model(channels=3, outputs=2, width=4, residual=True, **size)

    x = torch.randn(32, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    data = (x, torch.arange(32) % 2)
    run = Run(Task(build, data, valid=data, loss=cross_entropy), Recipe(steps=2, batch_size=8))
    with Convolutions() as convolutions:
        run.advance()
    assert len(convolutions.seen) > 8
    assert not any(convolutions.seen)
