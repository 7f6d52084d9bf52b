"""An optimizer of one's own in a recipe: a class, or a function of parameter groups."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW

import etude
from etude import Recipe, Task, optimizers, train, tune
from etude.engines import train_many
from etude.engines.vmap.eligibility import why_not_stackable
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.export import pytorch_code
from etude.optimizers.table import OWN
from etude.training.run import Run
from tests.helpers import data, mlp, task
from tests.optimizers.own_optimizers import MyAdamW, Needy, Rateless, Signs, two_rates

RECIPE = Recipe(lr=0.02, steps=24, batch_size=16, evaluations=2)
SIGNS = "tests.optimizers.own_optimizers:Signs"


def weights(record):
    return torch.cat([p.detach().flatten() for p in record.model.parameters()])


def by_hand(recipe: Recipe, optimizer_of) -> torch.Tensor:
    """Train as the recipe does, with a loop of one's own around the same batches."""
    run = Run(task(), recipe)
    model = run.model
    optimizer = optimizer_of(model)
    rates = [group["lr"] / recipe.lr for group in optimizer.param_groups]
    schedule = run.state.lr_schedule
    stream = run.task.train.stream(run.batch_size, recipe.seed, etude.tasks.sources.data.Cursor())
    for step in range(run.length):
        x, y = next(stream)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = recipe.lr * schedule(step) * rate
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("given", "built"),
    [
        (Signs, lambda m: Signs(m.parameters(), lr=0.02)),
        (
            {"name": Signs, "momentum": 0.5, "powers": [2, 1]},
            lambda m: Signs(m.parameters(), lr=0.02, momentum=0.5, powers=(2, 1)),
        ),
        (MyAdamW, lambda m: AdamW(m.parameters(), lr=0.02)),
        (
            lambda groups, lr: SGD(groups, lr=lr, momentum=0.9, nesterov=True),
            lambda m: SGD(m.parameters(), lr=0.02, momentum=0.9, nesterov=True),
        ),
        (two_rates, lambda m: two_rates([{"params": list(m.parameters())}], 0.02)),
    ],
)
def test_a_run_is_the_plain_loop_with_that_optimizer(given, built):
    recipe = RECIPE.replace(optimizer=given)
    assert torch.equal(weights(train(task(), recipe)), by_hand(recipe, built))


def test_a_class_of_the_table_is_its_row():
    assert Recipe(optimizer=torch.optim.AdamW) == Recipe(optimizer="adamw")
    assert Recipe(optimizer={"name": SGD, "momentum": 0.9}).optimizer.name == "sgd"
    assert optimizers.own(torch.optim.Adam) is optimizers.get("adam")


def test_a_subclass_keeps_what_is_known_of_its_base_but_is_not_stacked():
    row, base = optimizers.own(MyAdamW), optimizers.get("adamw")
    assert (row.centre, row.family, row.lr) == (base.centre, "adam", base.lr)
    assert row.stacked == ""
    assert set(row.hyperparameters) >= {"betas", "eps", "weight_decay"}


def test_the_search_begins_as_much_lower_as_the_default_rate_is():
    class Slow(Signs):
        def __init__(self, params, lr=1e-5):
            super().__init__(params, lr)

    assert optimizers.own(Slow).centre == pytest.approx(optimizers.get("adamw").centre - 2)


@pytest.mark.parametrize("given", [Signs, two_rates])
def test_groups_keep_the_proportion_of_their_rates_while_the_factor_is_looked_for(given):
    def groups(model):
        body, head = model[0], model[-1]
        return [
            {"params": list(body.parameters()), "lr_mult": 1.0},
            {"params": list(head.parameters()), "lr_mult": 0.1},
        ]

    x, y = data(80)
    of = Task(partial(mlp, 6, 8, 2), (x, y), loss=cross_entropy)
    if given is Signs:
        of = Task(partial(mlp, 6, 8, 2), (x, y), loss=cross_entropy, param_groups=groups)
    seen = []
    tune(
        of, Recipe(optimizer=given, steps=32, batch_size=16), 1.5, engine="loop", progress=False,
        observers=[Rates(seen)],
    )  # fmt: skip
    expected = 0.1 if given is Signs else 0.25
    assert {round(low / high, 9) for high, low in seen if high} == {expected}
    assert len({high for high, _ in seen}) > 4


class Rates(etude.Observer):
    """Notes the rates of both groups after every update."""

    name = "rates"

    def __init__(self, seen) -> None:
        super().__init__()
        self.seen = seen

    def __deepcopy__(self, memo):
        return Rates(self.seen)

    def on_update(self, state):
        self.seen.append(tuple(group["lr"] for group in state.optimizer.param_groups))


def test_a_tuning_and_a_resumed_one_find_the_same(tmp_path):
    recipe = Recipe(optimizer=Signs, steps=32, batch_size=16)
    found = tune(task(), recipe, 1.5, engine="loop", progress=False, folder=tmp_path)
    assert found.recipe.optimizer.name == SIGNS
    larger = tune(task(), folder=tmp_path, resume=True, more=1, engine="loop", progress=False)
    assert larger.cost > found.cost
    assert etude.TuneResult.load(tmp_path).recipe == larger.recipe


@pytest.mark.parametrize("given", [Signs, two_rates, lambda groups, lr: SGD(groups, lr=lr)])
def test_engines_give_the_bits_of_the_loop(given):
    recipes = [RECIPE.replace(optimizer=given, lr=lr) for lr in (0.01, 0.03)]
    alone, together = (train_many(task(), recipes, engine) for engine in ("loop", "pool"))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(weights(one), weights(other))
    with pytest.warns(UserWarning, match="has no stacked formula"):
        stacked = train_many(task(), recipes, "vmap")
    assert torch.equal(weights(stacked[0]), weights(alone[0]))
    assert "has no stacked formula" in why_not_stackable(Run(task(), recipes[0]))


def test_a_file_names_it_and_reading_the_file_imports_and_runs_nothing(tmp_path):
    recipe = RECIPE.replace(optimizer={"name": Signs, "momentum": 0.8})
    recipe.save(tmp_path / "recipe.toml")
    assert SIGNS in (tmp_path / "recipe.toml").read_text()
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    program = (
        "import sys\nfrom etude import Recipe\n"
        f"try:\n    Recipe.load({str(tmp_path / 'recipe.toml')!r})\n"
        "except Exception as error:\n    print(error)\n"
        "print([m for m in sys.modules if m.startswith('tests')])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert f"optimizer='{SIGNS}' is somebody's own" in said
    assert "call etude.optimizers.own(the class or function) first" in said
    assert said.endswith("[]\n")


def test_a_recipe_can_be_sent_to_another_process_if_its_optimizer_can_be_imported():
    recipe = RECIPE.replace(optimizer=Signs)
    sent = pickle.dumps(recipe)
    kept = OWN.pop(SIGNS)
    try:
        assert pickle.loads(sent).optimizer.name == SIGNS
    finally:
        OWN[SIGNS] = kept


def test_functions_with_other_code_are_other_recipes():
    one, two = (
        Recipe(optimizer=lambda groups, lr: SGD(groups, lr=lr)),
        Recipe(optimizer=lambda groups, lr: SGD(groups, lr=lr, momentum=0.5)),
    )
    again = [Recipe(optimizer=lambda groups, lr, m=m: SGD(groups, lr=lr)) for m in (0.1, 0.1, 0.2)]
    assert one.digest != two.digest
    assert again[0].digest == again[1].digest != again[2].digest


def test_its_numbers_can_follow_schedules():
    recipe = RECIPE.replace(optimizer=Signs, schedules={"momentum": "linear(0.9, 0.5)"})
    run = Run(task(), recipe)
    run.advance()
    assert run.optimizer.param_groups[0]["momentum"] < 0.55


def test_it_can_be_a_choice_of_a_tuning():
    best = tune(
        task(), Recipe(steps=32, batch_size=16), 3.0, engine="loop", progress=False,
        over={"optimizer": [Signs, "adamw"]},
    )  # fmt: skip
    assert best.recipe.optimizer.name in (SIGNS, "adamw")
    assert {str(one.values["optimizer"]) for one in best.selection.tried} >= {"adamw"}


def test_exported_code_builds_it():
    code = pytorch_code(RECIPE.replace(optimizer={"name": Signs, "momentum": 0.5}), 24)
    assert "from tests.optimizers.own_optimizers import Signs" in code
    assert "optimizer = Signs(model.parameters(), lr=0.02, momentum=0.5)" in code
    code = pytorch_code(RECIPE.replace(optimizer=two_rates), 24)
    assert 'optimizer = two_rates([{"params": list(model.parameters())}], 0.02)' in code
    with pytest.raises(BadValueError, match="put it in a module"):
        pytorch_code(RECIPE.replace(optimizer=lambda groups, lr: SGD(groups, lr=lr)), 24)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (nn.Linear, r"optimizer=Linear does not derive from torch\.optim\.Optimizer"),
        (Needy, "optimizer=Needy needs total: give it a default, or give a function"),
        (Rateless, "optimizer=Rateless takes no lr"),
        (lambda lr: None, "is no function of parameter groups and the rate"),
        (3, "optimizer=3: give a name, .* a torch Optimizer class, or a function"),
        ({"name": 3}, "give a name"),
    ],
)
def test_what_is_no_optimizer_is_refused(given, said):
    with pytest.raises(BadTypeError, match=said):
        Recipe(optimizer=given)


def test_what_a_function_does_wrong_is_told():
    with pytest.raises(BadTypeError, match="returned a NoneType: return a torch Optimizer"):
        train(task(), RECIPE.replace(optimizer=lambda groups, lr: None))
    with pytest.raises(TaskError, match=r"<lambda>.* failed: division by zero \(.*test_own\.py"):
        train(task(), RECIPE.replace(optimizer=lambda groups, lr: 1 / 0))
    with pytest.raises(BadValueError, match=r"gives a group the rate inf"):
        train(task(), RECIPE.replace(optimizer=lambda groups, lr: SGD(groups, lr=math.inf)))
    with pytest.raises(TaskError, match=r"would not be trained"):
        train(
            task(),
            RECIPE.replace(optimizer=lambda g, lr: SGD([g[0]["params"][0]], lr=lr)),
        )


def test_unknown_hyperparameters_and_values_are_refused():
    with pytest.raises(etude.errors.EtudeError, match="did you mean 'momentum'"):
        Recipe(optimizer={"name": Signs, "momentun": 0.5})
    with pytest.raises(etude.errors.EtudeError, match=r"powers=.*: give a number, a text"):
        Recipe(optimizer={"name": Signs, "powers": object()})
