"""Models of `torch.compile`: one program for all rates, and none for what is only looked at."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, tune
from etude.engines import LoopEngine
from etude.torch_internals import compiles
from etude.training.machine.eager import eagerly
from etude.trials.pool import TrialContext, TrialPool
from etude.trials.score import Goal
from tests.helpers import data, noisy

RECIPE = Recipe(optimizer="sgd", lr=0.1, steps=32, batch_size=16, evaluations=4)
COMPILED: list[int] = []


def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]):
    """A backend that counts what it is asked to compile, and runs it as it is."""
    COMPILED.append(len(inputs))
    return graph.forward


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = noisy()

    @torch.compile(backend=counting)
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


KINDS = {
    "a module": torch.compile(noisy(), backend=counting),
    "a function": lambda: torch.compile(noisy(), backend=counting),
    "a method": Decorated,
    "a part": lambda: nn.Sequential(torch.compile(noisy(), backend=counting)),
}


def task(model) -> Task:
    x, y = data(100)
    return Task(model, (x, y), loss=cross_entropy, metric="accuracy")


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    COMPILED.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuning_compiles_an_update_once_for_all_rates(kind):
    """Neither the check, nor evaluations, nor statistics of averaged weights compile anything."""
    best = tune(task(KINDS[kind]), RECIPE, 1.75, engine="loop", progress=False)
    assert len(best.trials) >= 3
    assert len(COMPILED) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_keeps_its_number_of_threads(kind):
    pool = TrialPool([task(KINDS[kind])], RECIPE, 3.0, Goal(), TrialContext(LoopEngine()))
    assert compiles(pool.first.model)
    trials = [pool.add(RECIPE.replace(lr=lr), f"lr-{lr:g}") for lr in (0.1, 0.2, 0.3)]
    pool.work = 7
    assert [pool._threads(trials[:count]) for count in (1, 2, 3)] == [7, 7, 7]
    pool.close()


def test_what_runs_as_it_was_written_gives_the_same():
    plain = noisy().eval()
    model = torch.compile(plain, backend=counting)
    x, _ = data(8)
    with eagerly():
        assert torch.equal(model(x), plain(x))
    assert COMPILED == []
    model(x)
    assert len(COMPILED) == 1
