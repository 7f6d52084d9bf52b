"""A paused run goes on to the bit, whatever way its state went: every optimizer's, at any pause.

Soap keeps bases in column-major order, L-BFGS takes dot products, moments lie as their weights
do: what comes back with the same values in another place gives other bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, tune
from etude.engines.loop import LoopEngine
from etude.engines.process.engine import PoolEngine
from etude.engines.process.state_transfer import StateTransfer
from etude.optimizers import ROWS
from etude.storage import checkpoint
from etude.storage.state_tree import tensors_in
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.trials.score import Goal
from etude.trials.trial import Trial
from tests import helpers
from tests.helpers import INSTALLED

NAMES = [row.name for row in INSTALLED]
ALIGNED = 64


def flat_data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(60, 6, generator=g)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def image_data() -> tuple[Tensor, Tensor]:
    x, y = flat_data()
    g = torch.Generator().manual_seed(4)
    return x.repeat(1, 12).view(60, 2, 6, 6) + torch.randn(60, 2, 6, 6, generator=g), y


def word_data() -> tuple[Tensor, Tensor]:
    x, _ = flat_data()
    ids = (x.abs() * 3).long().clamp(max=7)
    return ids, ids.flip(1)


mlp = partial(helpers.mlp, 6, 9, 5, 2)


def conv() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2)
    )
    return net.to(memory_format=torch.channels_last)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.cell(x.view(-1, 2, 3))[0][:, -1]))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 5)
        self.inner = nn.Linear(5, 5)
        self.head = nn.Linear(5, 8)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.table(ids)))).movedim(-1, 1)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, Tensor]]]] = {
    "mlp": (mlp, flat_data),
    "conv": (conv, image_data),
    "lstm": (Recurrent, flat_data),
    "tied": (Tied, word_data),
}


def task_of(model: str) -> Task:
    make, data = MODELS[model]
    return Task(make, data(), loss=cross_entropy)


def recipe_of(name: str, steps: int) -> Recipe:
    often = {"soap": {"precondition_frequency": 2}, "sgd": {"momentum": 0.9}}
    row = ROWS[name]
    gentle = {"lars": 1.0, "shampoo": 0.05}  # on a convolution shampoo's usual rate breaks
    return Recipe(
        optimizer={"name": name, **often.get(name, {})},
        lr=1.0 if row.closure else gentle.get(name, 10**row.centre),
        steps=2 + steps // 3 if row.closure else steps,
        batch_size=20,
        seed=5,
    )


def layout(tree: Any) -> list[tuple[Any, ...]]:
    """Return bits and places of every tensor of a state."""
    return [
        (t.dtype, t.shape, t.stride(), t.data_ptr() % ALIGNED if t.numel() else 0, repr(t.tolist()))
        for t in tensors_in(tree)
    ]


def facts(run: Run) -> dict[str, Any]:
    state = run.state_dict()
    return {
        "model": layout(state["model"]),
        "optimizer": layout(state["optimizer"]),
        "groups": repr(state["optimizer"]["param_groups"]),
        "series": layout(state["series"]),
        "random": [t.tolist() for t in tensors_in(state["random"])],
    }


def by_folder(run: Run, make: Callable[[], Run], folder: Path) -> Run:
    checkpoint.save(folder, run.step, run.state_dict())
    other = make()
    other.load_state_dict(checkpoint.load_newest(folder))
    return other


def by_transfer(run: Run, make: Callable[[], Run], folder: Path) -> Run:
    transfer = StateTransfer(2**24)
    other = make()
    other.load_state_dict(next(transfer.get(transfer.put([run.state_dict()]))))
    return other


def by_host(run: Run, make: Callable[[], Run], folder: Path) -> Run:
    made = iter([run])
    trial = Trial("one", lambda: [next(made, None) or make()], Goal(), None)
    trial.offload_to_host()
    assert not trial.in_memory
    return trial.runs[0]


def by_disk(run: Run, make: Callable[[], Run], folder: Path) -> Run:
    made = iter([run])
    trial = Trial("one", lambda: [next(made, None) or make()], Goal(), None)
    trial.offload(folder)
    assert not trial.in_memory
    return trial.runs[0]


ROUTES = {"folder": by_folder, "transfer": by_transfer, "disk": by_disk, "host": by_host}


def pauses(length: int) -> list[int]:
    return sorted({1, length // 2, length - 1})


def check_routes(model: str, name: str, steps: int, tmp_path: Path) -> None:
    task, recipe = task_of(model), recipe_of(name, steps)

    def make() -> Run:
        return Run(task, recipe)

    whole = make()
    whole.advance(AdvanceRequest(evaluation_steps={whole.length}))
    wanted = facts(whole)
    for route, send in ROUTES.items():
        run = make()
        for pause in pauses(run.length):
            run.advance(pause)
            run = send(run, make, tmp_path / route / str(pause))
        run.advance(AdvanceRequest(evaluation_steps={run.length}))
        assert facts(run) == wanted, route


@pytest.mark.parametrize(
    ("model", "name"), [(list(MODELS)[i % 4], name) for i, name in enumerate(NAMES)]
)
def test_a_state_goes_every_way_to_the_bit(model, name, tmp_path):
    check_routes(model, name, 9, tmp_path)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["soap", "lbfgs"])
def test_bases_and_histories_go_every_way_to_the_bit(model, name, tmp_path):
    check_routes(model, name, 12, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_a_longer_run_goes_every_way_to_the_bit(model, name, tmp_path):
    check_routes(model, name, 60, tmp_path)


def stops(length: int) -> Iterator[int]:
    yield from pauses(length)
    yield length


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_pool_equals_the_loop_for_every_optimizer(model):
    task = task_of(model)
    for name in NAMES:
        recipe = recipe_of(name, 30)
        one, other = Run(task, recipe), Run(task, recipe)
        with PoolEngine(workers=1) as pool, LoopEngine() as loop:
            for stop in stops(one.length):
                loop.advance([one], stop)
                pool.advance([other], stop)
        assert facts(other) == facts(one), name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tuning_that_spills_equals_one_in_memory(name):
    task, recipe = task_of("conv"), recipe_of(name, 24).replace(steps=24)
    one = tune(task, recipe, budget=2.0, progress=False)
    other = tune(task, recipe, budget=2.0, progress=False, memory=1)
    assert one.lr == other.lr
    assert layout(dict(one.model.state_dict())) == layout(dict(other.model.state_dict()))
    assert [e.loss for e in one.record.evaluations] == [e.loss for e in other.record.evaluations]


# ---- the model's own -----------------------------------------------------------------------


class Odd(nn.Module):
    """Buffers that overlap, are views of one memory, or change their layout on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)
        memory = torch.arange(12.0)
        self.register_buffer("mask", torch.ones(1).expand(6))
        self.register_buffer("head", memory[:6])
        self.register_buffer("tail", memory[6:].view(2, 3).T)
        self.register_buffer("turned", torch.zeros(3, 2))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
            self.head.add_(x.mean(0))
            self.turned = self.turned.T.contiguous().T + x.detach().mean()
            self.layer.weight.data = self.layer.weight.data.T.contiguous().T
        return self.layer(x * self.mask + self.head) + (self.turned @ self.layer.weight).sum()


@pytest.mark.parametrize("route", ROUTES)
def test_odd_buffers_and_weights_keep_their_layout(route, tmp_path):
    task = Task(Odd, flat_data(), loss=cross_entropy)
    recipe = Recipe(optimizer="adamw", lr=0.01, steps=8, batch_size=10)
    whole = Run(task, recipe)
    whole.advance(AdvanceRequest(evaluation_steps=whole.state.evenly_spaced(4)))
    run = Run(task, recipe)
    for pause in pauses(run.length):
        run.advance(AdvanceRequest(pause, evaluation_steps=run.state.evenly_spaced(4)))
        run = ROUTES[route](run, lambda: Run(task, recipe), tmp_path / str(pause))
        assert run.model.layer.weight.stride() == (1, 2)
    run.advance(AdvanceRequest(evaluation_steps=run.state.evenly_spaced(4)))
    assert facts(run) == facts(whole)
    assert run.evaluations == whole.evaluations


def test_a_paused_state_counts_all_that_it_keeps():
    run = Run(task_of("mlp"), recipe_of("soap", 6))
    run.advance(4)
    trial = Trial("one", lambda: [run], Goal(), None)
    weights = sum(p.nbytes for p in run.model.parameters())
    bases = sum(2 * 4 * sum(n * n for n in p.shape) for p in run.model.parameters() if p.ndim > 1)
    assert trial.size() == 3 * weights + bases
