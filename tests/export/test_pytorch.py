"""The code that a recipe prints for pasting trains as `etude.train` does."""

from __future__ import annotations

import ast

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import etude
from etude.export import pytorch_code
from etude.export.pytorch import ELSEWHERE
from etude.optimizers import ROWS
from etude.randomness import derive_seed, random_state_kept
from etude.recipe import Recipe
from etude.tasks.sources.data import Cursor
from etude.training.train import train

X = torch.randn(96, 5, generator=torch.Generator().manual_seed(3))
Y = (X.sum(1) > 0).long()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


TASK = etude.Task(network, (X, Y), (X[:32], Y[:32]), loss=cross_entropy, metric="accuracy")


def accuracy(model: nn.Module) -> torch.Tensor:
    return (model(X[:32]).argmax(-1) == Y[:32]).double().mean()


def pasted(recipe: Recipe, steps: int) -> nn.Module:
    """Run the pasted code on the weights and batches that `etude.train` would use."""
    with random_state_kept(derive_seed(recipe.seed, "init")):
        model = network()
    size = TASK.train.check(recipe.batch_size)
    place = {
        "model": model,
        "loss_function": cross_entropy,
        "train_loader": TASK.train.stream(size, recipe.seed, Cursor()),
        "valid_loader": [(X[:32], Y[:32])],
        "metric_of": accuracy,
    }
    exec(pytorch_code(recipe, steps), place)
    return model


RECIPES = {
    "default": Recipe(lr=0.0123456789, steps=24, batch_size=16),
    "sgd": Recipe(
        optimizer={"name": "sgd", "momentum": 0.9}, lr=0.1, steps=20, schedule="exponential(0.9)"
    ),
    "clipped": Recipe(lr=0.01, steps=20, clip_norm=0.1, clip_value=0.01),
    "accumulated": Recipe(lr=0.01, steps=20, batch_size=8, accumulate=2),
    "bfloat16": Recipe(lr=0.01, steps=20, precision="bfloat16"),
    "float16": Recipe(lr=0.01, steps=20, precision="float16"),
    "float16 clipped": Recipe(
        lr=0.01, steps=20, precision="float16", accumulate=2, batch_size=8, clip_norm=0.1
    ),
    "scheduled": Recipe(
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        lr=0.05,
        steps=20,
        schedules={"momentum": "linear(20, 0.9, 0.5)", "weight_decay": "0.1 * cosine(20)"},
    ),
    "betas": Recipe(lr=0.01, steps=20, schedules={"momentum": "linear(20, 0.95, 0.85)"}),
    "frozen and clipped": Recipe(lr=0.01, steps=20, clip_norm=0.1, lr_mult={"0.*": 0}),
    "multiplied": Recipe(lr=0.01, steps=20, lr_mult={"0.*": 0.5, "*bias": 2.0}),
    "unfrozen": Recipe(
        lr=0.01, steps=20, lr_mult={"0.*": "constant(0.0, length='50%') >> constant()"}
    ),
    "unfrozen-and-scheduled": Recipe(
        lr=0.01,
        steps=20,
        lr_mult={"0.*": "constant(0.0, length='50%') >> constant()"},
        schedules={"momentum": "linear(20, 0.95, 0.85)"},
    ),
    "lbfgs": Recipe(optimizer="lbfgs", lr=0.5, steps=6, batch_size=32, schedule="constant()"),
    "plateau": Recipe(lr=0.3, steps=40, schedule="plateau(factor=0.5, patience=0)", evaluations=10),
    "plateau-of-momentum": Recipe(
        lr=0.3,
        steps=40,
        schedule="warmup(4) >> plateau(factor=0.5, patience=0)",
        schedules={"momentum": "0.9 * plateau(factor=0.5, patience=0)"},
        evaluations=10,
        precision="bfloat16",
    ),
    "plateau-and-unfrozen": Recipe(
        lr=0.3,
        steps=40,
        schedule="plateau(factor=0.5, patience=0)",
        lr_mult={"0.*": "constant(0.0, length='50%') >> constant()"},
        evaluations=10,
    ),
    "plateau-of-accuracy": Recipe(
        lr=0.3, steps=40, schedule="plateau(mode='max', factor=0.5, patience=0)", evaluations=10
    ),
    "plateau-of-accuracy-and-loss": Recipe(
        lr=0.3,
        steps=40,
        schedule="warmup(4) >> plateau(mode='max', factor=0.5, patience=0)",
        schedules={
            "momentum": "0.9 * plateau(factor=0.5, patience=0)",
            "weight_decay": "0.1 * cosine(40)",
        },
        evaluations=10,
    ),
    "plateau-of-accuracy-and-unfrozen": Recipe(
        lr=0.3,
        steps=40,
        schedule="plateau(mode='max', factor=0.5, patience=0)",
        lr_mult={"0.*": "constant(0.0, length='50%') >> constant()"},
        evaluations=10,
    ),
    "newton_cg": Recipe(optimizer="newton_cg", lr=0.5, steps=6, schedule="constant()"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_pasted_loop_gives_the_weights_of_train(recipe):
    record = train(TASK, recipe)
    assert record.status == "finished"
    model = pasted(recipe, record.length)
    for ours, theirs in zip(model.parameters(), record.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("plateau")])
def test_the_plateaus_above_do_react(name):
    rates = train(TASK, RECIPES[name]).series["lr"]
    assert rates[-1] < max(rates)


@pytest.mark.parametrize("schedule", ["cosine()", "plateau(patience=0)"])
def test_the_pasted_loop_goes_through_a_loader_as_often_as_it_needs(schedule):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=32)
    seen: list[int] = []

    def loss_function(output, target):
        seen.append(len(target))
        return cross_entropy(output, target)

    place = {"model": network(), "loss_function": loss_function}
    code = pytorch_code(Recipe(steps=10, schedule=schedule, evaluations=5), 10)
    exec(code, {**place, "train_loader": loader, "valid_loader": loader})
    evaluations = 4 if "plateau" in schedule else 0
    assert len(seen) == 10 + 3 * evaluations


def own_step(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"])


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"optimizer": "lbfgs"}])
def test_the_pasted_loop_of_a_task_with_its_own_step_calls_it(changes):
    recipe = Recipe(lr=0.1, steps=12, schedule="plateau(patience=0)", evaluations=3)
    recipe = recipe.replace(**changes)
    data = {"x": X, "y": Y}
    task = etude.Task(network, data, data, step=own_step)
    record = train(task, recipe)
    with random_state_kept(derive_seed(recipe.seed, "init")):
        model = network()
    place = {
        "model": model,
        "step": own_step,
        "train_loader": task.train.stream(64, recipe.seed, Cursor()),
        "valid_loader": [data],
    }
    exec(pytorch_code(recipe, 12, task=task), place)
    for ours, theirs in zip(model.parameters(), record.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 2), nn.Linear(5, 2)
        self.scale = nn.Parameter(torch.ones(()))


def turns(model, batch):
    loss = cross_entropy(model.first(batch["x"]), batch["y"])
    yield "first", loss
    with torch.no_grad():
        seen = model.first(batch["x"])
    yield "second", ((model.second(batch["x"]) - seen) ** 2).mean()
    yield "scale", (model.scale * seen).square().mean()


@pytest.mark.parametrize(
    "changes", [{}, {"clip_norm": 0.05}, {"precision": "bfloat16"}, {"schedule": "plateau()"}]
)
def test_the_pasted_loop_of_parts_that_take_turns_trains_as_train_does(changes):
    recipe = Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=0.1, steps=12, evaluations=3)
    recipe = recipe.replace(**changes)
    data = {"x": X, "y": Y}
    task = etude.Task(Pair, data, data, step=turns)
    record = train(task, recipe)
    with random_state_kept(derive_seed(recipe.seed, "init")):
        model = Pair()
    place = {
        "model": model,
        "step": turns,
        "train_loader": task.train.stream(64, recipe.seed, Cursor()),
        "valid_loader": [data],
    }
    exec(pytorch_code(recipe, 12, task=task), place)
    for ours, theirs in zip(model.parameters(), record.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ROWS)
def test_the_code_of_every_optimizer_is_python_that_names_it_rightly(name):
    code = pytorch_code(Recipe(optimizer=name, steps=10), 10)
    ast.parse(code)
    row = ROWS[name]
    builder = f"torch.optim.{row.attribute}(" if row.module == "torch.optim" else f"build({name!r}"
    assert builder in code


def test_what_the_loop_cannot_say_is_named_in_a_comment():
    recipe = Recipe(l1=1e-4, early_stopping=3, initialisation="he_normal", dropout=0.1, steps=10)
    comment = pytorch_code(recipe, 10).splitlines()[-1]
    assert comment.startswith("# The recipe also sets ")
    for name in ("l1=0.0001", "early_stopping=3", "initialisation='he_normal'", "dropout=0.1"):
        assert name in comment


def test_every_field_of_a_recipe_is_in_the_code_or_named_as_not_being_there():
    in_code = {"optimizer", "lr", "lr_mult", "schedule", "schedules", "steps", "accumulate"}
    in_code |= {"clip_norm", "clip_value", "precision"}
    assert in_code | set(ELSEWHERE) == set(Recipe.model_fields)


def groups(model):
    first, last = model[0], model[2]
    return [
        {"params": [first.weight], "lr_mult": 0.3, "weight_decay": 0.0},
        {"params": list(last.parameters())},
    ]


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "lamb"}, {"clip_norm": 0.05}, {"lr_mult": {"2.*": 0.5}}]
)
def test_the_pasted_loop_trains_the_parameter_groups_of_a_task(changes):
    recipe = Recipe(lr=0.05, steps=20, batch_size=16).replace(**changes)
    task = etude.Task(network, (X, Y), (X[:32], Y[:32]), loss=cross_entropy, param_groups=groups)
    record = train(task, recipe)
    with random_state_kept(derive_seed(recipe.seed, "init")):
        model = network()
    place = {
        "model": model,
        "loss_function": cross_entropy,
        "train_loader": task.train.stream(16, recipe.seed, Cursor()),
        "param_groups": groups,
    }
    code = pytorch_code(recipe, 20, task=task)
    assert "param_groups(model)" in code.splitlines()[0]
    exec(code, place)
    for ours, theirs in zip(model.parameters(), record.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_group_with_its_own_value_and_a_schedule_of_it_are_named():
    task = etude.Task(network, (X, Y), loss=cross_entropy, param_groups=groups)
    recipe = Recipe(lr=0.05, steps=20, schedules={"weight_decay": "0.1 * cosine()"})
    assert "keeps a group's own weight_decay" in pytorch_code(recipe, 20, task=task)
    assert "keeps a group's own" not in pytorch_code(recipe, 20)
