"""Drawn at random: any optimizer, network, bounds, schedules and pauses; member i is run i."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task
from etude.engines import LoopEngine, VmapEngine
from etude.engines.vmap.loop import BLOCK
from etude.training.request import AdvanceRequest
from tests.engines.common import (
    BASE,
    assert_close,
    data,
    mlp,
    noisy,
    numbers,
    quarters,
    runs_of,
    task,
)


class Recurrent(nn.Module):
    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.cell, self.head = kind(2, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.reshape(-1, 3, 2))[0][:, -1])


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def normalised() -> nn.Module:
    # Without the bias that normalisation takes away again: its gradient is nothing but roundoff.
    return nn.Sequential(
        nn.Linear(6, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(12, 2),
    )  # fmt: skip


def layered() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8, bias=False), nn.LayerNorm(8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )


MODELS = {
    "dense": mlp,
    "batch norm, dropout": normalised,
    "convolutional": convolutional,
    "layer norm, dropout": layered,
    "lstm": Recurrent,
    "gru": lambda: Recurrent(nn.GRU),
}

rates = st.floats(1e-3, 3e-2)
factors = st.sampled_from([0.0, 0.5, 0.9])
decays = st.sampled_from([0.0, 0.01, 0.3])
betas = st.tuples(st.sampled_from([0.5, 0.9]), st.sampled_from([0.9, 0.99]))


def named(name: str, **values: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"name": st.just(name), **values})


OPTIMIZERS = [
    named("sgd", momentum=factors, dampening=st.sampled_from([0.0, 0.4]), weight_decay=decays),
    named("sgd", momentum=st.just(0.9), nesterov=st.just(True), weight_decay=decays),
    named("adagrad", lr_decay=decays, weight_decay=decays),
    named("rmsprop", momentum=factors, centered=st.booleans(), weight_decay=decays),
    named("adam", betas=betas, weight_decay=decays, amsgrad=st.booleans()),
    named("adamw", betas=betas, weight_decay=decays, amsgrad=st.booleans()),
    named("nadam", betas=betas, weight_decay=decays, decoupled_weight_decay=st.booleans()),
]
if importlib.util.find_spec("pytorch_optimizer"):
    OPTIMIZERS.append(named("lion", betas=betas, weight_decay=decays))

bounds = st.one_of(st.none(), st.floats(0.01, 1.0))
fields = st.fixed_dictionaries(
    {},
    optional={
        "clip_norm": st.floats(0.05, 1.0),
        "clip_value": st.floats(0.005, 0.1),
        "clip_adaptive": st.floats(0.01, 0.1),
        "label_smoothing": st.sampled_from([0.05, 0.2]),
        "accumulate": st.just(2),
        "l2": st.just(1e-2),
        "lr_mult": st.just({"*.bias": 0.5}),
    },
)
SHAPES = ("constant()", "cosine()", "warmup(5) >> linear()")


@st.composite
def recipes_of(draw: Any) -> list[Recipe]:
    optimizer = draw(st.one_of(OPTIMIZERS))
    common = draw(fields)
    scheduled: dict[str, Any] = {}
    if "weight_decay" in optimizer and draw(st.booleans()):
        scheduled["weight_decay"] = "0.1 * linear()"
    moves = optimizer.get("momentum", 0.0) > 0 or "betas" in optimizer
    if moves and draw(st.booleans()):
        scheduled["momentum"] = "0.9 - 0.3 * (1.0 - linear())"
    base = BASE.replace(optimizer=optimizer, steps=14, batch_size=8, **common)
    return [
        base.replace(
            lr=draw(rates), seed=draw(st.integers(0, 2)), schedule=draw(st.sampled_from(SHAPES)),
            schedules=scheduled,
        )
        for _ in range(draw(st.integers(2, 4)))
    ]  # fmt: skip


QUICKLY = settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # what is drawn is small already
    suppress_health_check=list(HealthCheck),
)


@QUICKLY
@given(recipes_of(), st.sampled_from(sorted(MODELS)), st.lists(st.integers(1, 13), max_size=2))
def test_member_i_is_run_i(recipes: list[Recipe], model: str, pauses: list[int]) -> None:
    of = task(MODELS[model])
    ours, theirs = runs_of(of, recipes), runs_of(of, recipes)
    engine = VmapEngine(compile="never")
    for until in (*sorted(pauses), None):
        engine.advance(ours, AdvanceRequest(until, evaluation_steps=quarters))
    LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
    assert engine.notes == []
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("model", MODELS)
def test_every_network_with_a_memory_of_two_moments(model: str) -> None:
    recipes = [
        BASE.replace(optimizer="adamw", lr=lr, seed=seed, clip_norm=0.5, steps=12)
        for lr, seed in ((3e-3, 0), (1e-2, 1))
    ]
    ours, theirs = runs_of(task(MODELS[model]), recipes), runs_of(task(MODELS[model]), recipes)
    engine = VmapEngine(compile="never")
    engine.advance(ours, AdvanceRequest(5, evaluation_steps=quarters))
    engine.advance(ours, AdvanceRequest(evaluation_steps=quarters))
    LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
    assert engine.notes == []
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other)
    assert not torch.equal(numbers(ours[0]), numbers(ours[1]))


def test_seeds_differ_and_the_same_seed_does_not() -> None:
    recipes = [BASE.replace(seed=seed) for seed in (0, 1, 0)]
    runs = runs_of(task(noisy), recipes)
    VmapEngine(compile="never").advance(runs)
    losses = [run.series["loss"] for run in runs]
    assert losses[0] == losses[2] != losses[1]


@settings(QUICKLY, max_examples=4)
@given(st.integers(0, 3), st.integers(1, 3))
def test_one_that_diverges_leaves_and_the_others_go_on(place: int, wild: int) -> None:
    """Whoever diverges and wherever it stands, the others are what they are by themselves."""
    tame = [BASE.replace(lr=0.01 * (i + 1), seed=i, steps=BLOCK + 9) for i in range(3)]
    broken = {"name": "sgd", "momentum": 0.9, "weight_decay": 1.0}
    recipes = [recipe.replace(optimizer={**broken, "weight_decay": 0.0}) for recipe in tame]
    for i in range(wild):
        recipes.insert(place, BASE.replace(lr=1e20 * 10**i, optimizer=broken, steps=BLOCK + 9))
    ours = runs_of(task(), recipes)
    VmapEngine(compile="never").advance(ours, AdvanceRequest(evaluation_steps=quarters))
    ended = [run for run in ours if run.diverged]
    assert len(ended) == wild
    for run in ended:
        alone = runs_of(task(), [run.recipe])[0]
        LoopEngine().advance([alone], AdvanceRequest(evaluation_steps=quarters))
        assert (run.step, run.reason) == (alone.step, alone.reason)
    others = [run for run in ours if not run.diverged]
    theirs = runs_of(task(), [run.recipe for run in others])
    LoopEngine().advance(theirs, AdvanceRequest(evaluation_steps=quarters))
    for one, other in zip(others, theirs, strict=True):
        assert_close(one, other)


def test_what_is_said_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    engine = VmapEngine(compile="never")
    of = Task(mlp, data(), loss=cross_entropy)
    for _ in range(3):
        runs = runs_of(of, [BASE.replace(optimizer="radam", lr=lr) for lr in (0.1, 0.01)])
        engine.advance(runs, 3)
        engine.advance(runs, 6)
    said = [w for w in recwarn if "radam" in str(w.message)]
    assert len(said) == len(engine.notes) == 1


def test_a_stack_leaves_what_it_was_given_alone() -> None:
    x, y = data()
    kept = copy.deepcopy((x, y))
    state = torch.get_rng_state()
    runs = runs_of(Task(noisy, (x, y), loss=cross_entropy), [BASE, BASE.replace(seed=1)])
    VmapEngine(compile="never").advance(runs, AdvanceRequest(evaluation_steps=quarters))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert all(p.grad is None or p.grad.shape == p.shape for r in runs for p in r.parameters)
