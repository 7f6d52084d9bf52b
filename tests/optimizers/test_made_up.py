"""A row is all that an optimizer needs: one that is registered works wherever optimizers do."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from etude import Recipe, train
from etude.cli.program import app
from etude.engines import LoopEngine
from etude.engines.vmap.engine import VmapEngine
from etude.engines.vmap.optimizers import RULES
from etude.errors import BadTypeError, BadValueError
from etude.export import pytorch_code
from etude.layerwise.capabilities import row_of
from etude.layerwise.planning import plan
from etude.measure import threshold
from etude.optimizers import ROWS, build, register, table
from etude.training.run import Run
from etude.tuning.transfer.rules import batch_rule
from tests.engines.common import runs_of, same_bits
from tests.helpers import data, mlp, task
from tests.optimizers import test_contract as contract
from tests.optimizers.made_up import ROW, Softsign

NAME = ROW.name
RECIPE = Recipe(optimizer="adamw", lr=0.02, steps=12, batch_size=16, evaluations=2)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(ROW)
    yield
    del table._TABLE[NAME]


def recipe(**changes: object) -> Recipe:
    return RECIPE.replace(**{"optimizer": NAME, **changes})


def laws() -> list[Callable[[str], None]]:
    """The tests of the contract that are stated of every optimizer by its name."""
    found = []
    for name, test in vars(contract).items():
        marks = [m for m in getattr(test, "pytestmark", ()) if m.name == "parametrize"]
        if name.startswith("test_") and [m.args[0] for m in marks] == ["name"]:
            everyone = set(marks[0].args[1]) >= set(contract.FIRST_ORDER)
            if everyone and list(inspect.signature(test).parameters) == ["name"]:
                found.append(test)
    return found


@pytest.mark.parametrize("law", laws(), ids=lambda law: law.__name__)
def test_the_contract_holds(law):
    law(NAME)


def test_there_are_laws_to_hold():
    assert len(laws()) >= 5


def test_it_is_built_with_its_bounds():
    optimizer = build(NAME, mlp(), eps=0.2)
    assert type(optimizer) is Softsign
    assert optimizer.defaults["eps"] == 0.2
    with pytest.raises(BadValueError, match=r"softsign\.eps=-1.* out of bounds"):
        build(NAME, mlp(), eps=-1)


def test_a_recipe_names_it_and_trains_to_the_same_bits_again():
    named = recipe(optimizer={"name": NAME, "weight_decay": 0.01})
    assert Recipe.from_toml(named.to_toml()) == named
    one, two = (train(task(), named) for _ in range(2))
    assert one.status == "finished"
    assert one.evaluations == two.evaluations
    assert one.evaluations[-1].loss < one.evaluations[0].loss


def test_layers_and_rows_have_rates_of_their_own():
    mult = {"0.weight[0:3]": 3.0, "2.*": 0.5}
    plain, layered = Run(task(), recipe()), Run(task(), recipe(lr_mult=mult))
    before = plain.model[0].weight.detach().clone()
    for run in (plain, layered):
        run.check()
        LoopEngine().advance([run], 1)
    moved = [run.model[0].weight.detach() - before for run in (plain, layered)]
    torch.testing.assert_close(moved[1][:3], 3 * moved[0][:3], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved[1][3:], moved[0][3:], rtol=1e-4, atol=1e-7)


def test_the_stacked_engine_trains_one_after_another_and_says_so_once():
    rates = [recipe(lr=lr) for lr in (0.05, 0.01)]
    engine = VmapEngine(compile="never")
    ours, theirs = runs_of(task(), rates), runs_of(task(), rates)
    engine.advance(ours, 6)
    engine.advance(ours)
    LoopEngine().advance(theirs)
    assert len(engine.notes) == 1
    assert f"the optimizer {NAME} has no stacked formula" in engine.notes[0]
    assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))


def test_it_is_written_as_code_that_needs_no_row():
    code = pytorch_code(recipe(optimizer={"name": NAME, "eps": 0.2}), 12)
    assert "from tests.optimizers.made_up import Softsign" in code
    assert "optimizer = Softsign(model.parameters(), lr=0.02, eps=0.2)" in code
    x, y = data()
    batches = [(x[:16], y[:16]), (x[16:32], y[16:32])]
    given = {"model": mlp(), "train_loader": batches, "loss_function": cross_entropy}
    exec(compile(code, "loop", "exec"), given)
    assert isinstance(given["optimizer"], Softsign)
    layered = pytorch_code(recipe(lr_mult={"0.*": 2.0}), 12)
    assert f"Import the file that registers {NAME!r} first" in layered


def test_rules_for_another_size_follow_from_its_family():
    assert batch_rule(recipe(batch_size=16), 16, 64).exponent == 0.5
    kept = {row.name: row.multiplier for row in plan("mup(6)", mlp(), optimizer=NAME).rows}
    assert kept == {
        row.name: row.multiplier for row in plan("mup(6)", mlp(), optimizer="adam").rows
    }


def test_the_command_line_lists_it():
    def said(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert NAME in [one["name"] for one in json.loads(said("optimizers", "--json"))]
    assert ROW.when in said("optimizers", "show", NAME)
    assert NAME in said("optimizers")


def test_a_name_belongs_to_one_row():
    assert register(ROW) is ROW
    with pytest.raises(BadValueError, match="already called 'softsign': give yours another name"):
        register(replace(ROW, lr=1.0))
    with pytest.raises(BadValueError, match="already called 'sgd'"):
        register(replace(ROW, name="sgd"))
    with pytest.raises(BadValueError, match="'Softsign' of 'other': write 'module:Class'"):
        register(replace(ROW, name="other", factory="Softsign"))
    with pytest.raises(BadTypeError, match="OptimizerRow"):
        register("softsign")  # type: ignore[arg-type]
    assert ROWS["sgd"].factory == "torch.optim:SGD"


@pytest.mark.parametrize("factory", ["nowhere:Softsign", "tests.optimizers.made_up:Hardsign"])
def test_a_class_that_is_not_there_is_one_message(factory):
    row = register(replace(ROW, name="lost", factory=factory))
    try:
        with pytest.raises(BadValueError, match=f"'lost' is '{factory}', which cannot be imported"):
            build("lost", mlp())
    finally:
        del table._TABLE[row.name]


def test_a_row_of_a_known_class_does_not_take_its_place():
    row = register(replace(ROW, name="other_sgd", factory="torch.optim:SGD"))
    try:
        assert row_of(torch.optim.SGD) is ROWS["sgd"]
        assert row_of(Softsign) is ROW
    finally:
        del table._TABLE[row.name]


def test_what_rows_name_elsewhere_is_there():
    for row in ROWS.values():
        assert not row.stacked or row.stacked in RULES
        assert not row.stability or row.stability in threshold.RULES
        assert not (row.stability and row.why_no_threshold)
        assert set(row.advised) <= set(row.hyperparameters)
    used = {row.stability for row in ROWS.values()} - {""}
    assert used == set(threshold.RULES)


def test_newton_takes_as_many_parameters_as_its_row_says():
    from etude.optimizers.classes.newton import LIMIT

    assert ROWS["newton"].most_parameters == LIMIT
