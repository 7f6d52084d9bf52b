"""Rates carried to another size: the rules' laws, and what the short runs say."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Recipe, Task, optimizers, tasks, train
from etude.errors import BadTypeError, BadValueError
from etude.record import Evaluation
from etude.training.run import Run
from etude.tuning.result import tie
from etude.tuning.transfer.rules import TransferRule
from etude.tuning.transfer.scaling import linear, square_root
from etude.tuning.transfer.transfer import Transfer, carry, transfer

sizes = st.integers(1, 96)
SGD = Recipe(optimizer="sgd", lr=0.1, batch_size=16, steps="4 epochs")
ADAM = SGD.replace(optimizer="adam", lr=0.01)


@cache
def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(120, 6, generator=g)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def mlp(width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


def task(width: int = 8, **more: Any) -> Task:
    return Task(lambda: mlp(width), data(), **{"loss": cross_entropy, **more})


def lr(recipe: Recipe, **change: Any) -> float:
    return carry(recipe, task(), **change)[0].lr


# ---- the rules ---------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [SGD, ADAM])
@given(a=sizes, b=sizes, c=sizes)
@settings(max_examples=25)
def test_there_and_back_and_by_way_of_another_size(recipe, a, b, c):
    for what in ("width", "depth"):
        there = carry(recipe, task(), **{what: (a, b)})[0]
        back = carry(there, task(), **{what: (b, a)})[0]
        assert back.lr == pytest.approx(recipe.lr)
        on = carry(there, task(), **{what: (b, c)})[0]
        assert on.lr == pytest.approx(lr(recipe, **{what: (a, c)}))
    by_way = carry(carry(recipe, task(), batch_size=a)[0], task(), batch_size=b)[0]
    assert by_way.lr == pytest.approx(lr(recipe, batch_size=b))


@given(st.integers(100, 5000), st.integers(100, 5000))
@settings(max_examples=25)
def test_a_length_there_and_back(one, other):
    short = ADAM.replace(steps=one)
    longer, rules = carry(short, task(), steps=other)
    assert longer.steps == other
    assert longer.lr == pytest.approx(short.lr * (other / one) ** -0.32)
    assert carry(longer, task(), steps=one)[0].lr == pytest.approx(short.lr)
    assert rules[0].before == one * 16  # samples


@given(sizes, sizes, sizes)
@settings(max_examples=25)
def test_changes_multiply(batch, width, depth):
    for recipe in (SGD, ADAM):
        together, rules = carry(
            recipe, task(), batch_size=batch, width=(8, width), depth=(2, depth), steps="8 epochs"
        )
        assert [rule.about for rule in rules] == ["batch size", "width", "depth", "length"]
        alone = [lr(recipe, batch_size=batch) / recipe.lr]
        alone += [
            lr(recipe, width=(8, width)) / recipe.lr,
            lr(recipe, depth=(2, depth)) / recipe.lr,
        ]
        assert together.lr / recipe.lr == pytest.approx(math.prod(r.factor for r in rules))
        assert [r.factor for r in rules[:3]] == pytest.approx(alone)
        assert together.batch_size == batch


@given(sizes)
def test_the_batch_rules_are_those_of_scaling(batch):
    assert carry(SGD, task(), batch_size=batch)[0] == linear(SGD, batch)
    assert carry(ADAM, task(), batch_size=batch)[0] == square_root(ADAM, batch)


def test_the_exponents_are_those_of_the_sources():
    assert lr(ADAM, width=(8, 32)) == pytest.approx(0.01 / 4)
    assert lr(SGD, width=(8, 32)) == pytest.approx(0.1 / 2)  # under a cross-entropy
    squares = Task(nn.Linear(6, 1), (data()[0], data()[0][:, :1]), loss=mse_loss)
    assert carry(SGD, squares, width=(8, 32))[0].lr == pytest.approx(0.1 / 4)
    assert lr(ADAM, depth=(2, 8)) == pytest.approx(0.01 / 2)
    assert lr(SGD, depth=(2, 8)) == SGD.lr


@pytest.mark.parametrize("name", sorted(optimizers.ROWS))
def test_every_optimizer_has_a_rule_or_is_refused_by_name(name):
    recipe = Recipe(optimizer=name, batch_size=16, steps="4 epochs")
    if optimizers.get(name).family:
        rate, rules = carry(recipe, task(), batch_size=32)
        assert rate.lr > recipe.lr
        assert "arXiv" in rules[0].text()
        return
    for change in ({"batch_size": 32}, {"depth": (1, 2)}, {"width": (1, 2)}, {"steps": 10}):
        with pytest.raises(BadValueError, match=f"no rule is known for how the rate of {name}"):
            carry(recipe, task(), **change)


def test_a_schedule_in_updates_is_stretched_with_the_length():
    recipe = ADAM.replace(steps=1000, schedule="warmup(100) >> cosine(900)")
    longer = carry(recipe, task(), steps=2000)[0]
    one, two = recipe.schedule.over(1000), longer.schedule.over(2000)
    for t in (50, 100, 400, 900):
        assert two(2 * t) == pytest.approx(one(t), abs=0.02)


@given(sizes, sizes, st.floats(-2, 2))
def test_a_rule_says_its_factor(before, after, power):
    rule = TransferRule("width", before, after, power, "somebody", "somewhere")
    assert rule.factor == pytest.approx((after / before) ** power)
    assert (f"lr × {rule.factor:.4g}" if power else "lr unchanged") in rule.text()
    assert rule.plain()["factor"] == rule.factor


# ---- muP ---------------------------------------------------------------------------------


def test_mup_keeps_the_rate_and_lays_its_multipliers_in():
    wide = tasks.get("digits-mlp", width=128)
    recipe, rules = carry(ADAM, wide, width=(32, 128), mup=True)
    assert recipe.lr == ADAM.lr
    assert recipe.lr_mult.plain() == "mup(32)"
    run = Run(wide, recipe)
    rates = {round(group["lr"] / recipe.lr, 6) for group in run.optimizer.param_groups}
    assert rates == {1.0, 0.25}
    assert rules[0].factor == 1


def test_mup_at_its_own_width_is_the_recipe_that_was_tuned():
    base = tasks.get("digits-mlp", width=32)
    short = ADAM.replace(steps=5)
    recipe = carry(short, base, width=(32, 32), mup=True)[0]
    assert train(base, recipe).series["loss"].tolist() == train(base, short).series["loss"].tolist()


def test_a_base_model_gives_the_same_multipliers_as_its_width():
    wide = tasks.get("digits-mlp", width=128)
    narrow = tasks.get("digits-mlp", width=32).build()
    by_model, rules = carry(ADAM, wide, base_model=narrow)
    by_width = carry(ADAM, wide, width=(32, 128), mup=True)[0]
    assert rules[0].after == 4
    groups = [
        {round(g["lr"], 9): sum(p.numel() for p in g["params"]) for g in one.optimizer.param_groups}
        for one in (Run(wide, by_model), Run(wide, by_width))
    ]
    assert groups[0] == groups[1]


def test_other_multipliers_stay():
    recipe = ADAM.replace(lr_mult={"head.bias": 2.0})
    wide = tasks.get("digits-mlp", width=64)
    plain = carry(recipe, wide, width=(32, 64), mup=True)[0].lr_mult.plain()
    assert plain == {"@policy": "mup(32)", "head.bias": 2.0}


# ---- the check ---------------------------------------------------------------------------


def found(**change: Any) -> Transfer:
    return transfer(ADAM.replace(steps=64), task(), **{"width": (8, 8), **change})


def test_the_rates_stand_a_factor_apart_and_hold_the_rules():
    one = found(factor=3.0, further=0)
    assert one.rates == (0.00333, 0.01, 0.03)
    assert one.recipe.lr == 0.01
    assert one.updates == 8
    assert one.cost == pytest.approx(3 / 8)
    assert one.gradients == 3 * 8 * 16


def test_each_loss_is_that_of_the_plain_run_paused_there():
    one = found(share=0.5, further=0)
    for rate, loss in zip(one.rates, one.losses, strict=True):
        run = Run(task(), ADAM.replace(steps=64, lr=rate))
        run.advance(32)
        assert run.evaluate().loss == loss


@pytest.mark.slow
def test_a_rate_that_is_far_too_low_is_not_confirmed_and_a_better_one_is_returned():
    recipe = ADAM.replace(steps=200, lr=1e-4)
    one = transfer(recipe, task(), depth=(1, 1), share=0.5)
    assert not one.confirmed
    assert one.best.lr == max(one.rates)
    assert one.at_edge
    assert one.best == one.recipe.replace(lr=one.best.lr)
    assert len(one.rates) == 5  # the best stood at the end, so further ones were tried
    assert "Not confirmed" in one.advice()
    assert "clearly better" in one.advice()


@pytest.mark.slow
def test_a_good_rate_is_confirmed_and_kept():
    recipe = ADAM.replace(steps=200, lr=0.03)
    one = transfer(recipe, task(), depth=(1, 1), share=1.0)
    own = one.losses[one.rates.index(0.03)]
    assert one.confirmed
    assert one.best == one.recipe
    assert own <= min(one.losses) + 0.5 * (one.untrained - min(one.losses))
    assert one.advice().startswith("Confirmed")


@pytest.mark.slow
def test_confirmed_means_tied_with_the_best():
    for rate in (1e-4, 0.03, 0.3):
        one = transfer(ADAM.replace(steps=100, lr=rate), task(), depth=(1, 1), share=0.5)
        runs = {}
        for each in one.rates:
            run = Run(task(), ADAM.replace(steps=100, lr=each))
            run.advance(50)
            runs[each] = run.evaluate()
        best = min(runs.values(), key=lambda e: e.loss)
        drop = one.untrained - best.loss
        want = runs[rate].loss < one.untrained and tie(runs[rate], best, drop)
        assert one.confirmed == want


def test_a_rate_that_diverges_is_infinitely_bad_and_not_confirmed():
    bowl = Task(nn.Linear(6, 1), (data()[0], data()[0][:, :1]), loss=mse_loss)
    recipe = SGD.replace(lr=300.0, steps=200, schedule="constant()")
    one = transfer(recipe, bowl, depth=(1, 1), further=0)
    assert one.losses == (math.inf,) * 3
    assert not one.confirmed
    assert not one.trained
    assert "trains" in one.advice()
    assert one.plain()["losses"] == ["inf"] * 3


def test_a_task_with_a_step_of_its_own():
    def step(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    own = task(loss=None, step=step)
    one = transfer(ADAM.replace(steps=40), own, batch_size=32)
    assert one.recipe.steps == 20
    assert one.losses == transfer(ADAM.replace(steps=40), task(), batch_size=32).losses


def test_what_the_user_gave_is_left_alone():
    net = mlp()
    before = [p.clone() for p in net.parameters()]
    state = torch.get_rng_state()
    transfer(ADAM.replace(steps=40), Task(net, data(), loss=cross_entropy), batch_size=32)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_evaluation_is_tied_with_itself():
    one = Evaluation(3, 1.0, None, (0.5, 1.5))
    assert tie(one, one, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "nothing is to change"),
        ({"width": (8,)}, "give \\(before, after\\)"),
        ({"width": (8, 0)}, "at least 1"),
        ({"depth": (2.0, 4)}, "2.0 is not a whole number"),
        ({"batch_size": 0}, "batch_size=0 is out of bounds"),
        ({"batch_size": 1000}, "larger than the 96 training samples"),
        ({"mup": True, "depth": (1, 2)}, "give width="),
        ({"steps": "3 parsecs"}, "parsecs"),
        ({"steps": 20, "share": 0.01}, "too short to judge"),
        ({"steps": 20, "share": 0}, "share=0 is out of bounds"),
        ({"steps": 20, "factor": 1}, "factor=1 is out of bounds"),
        ({"steps": 20, "further": -1}, "further=-1 is out of bounds"),
        ({"base_model": mlp(), "width": (4, 8)}, "leave one out"),
        ({"base_model": mlp(), "mup": False}, "leave out mup=False"),
    ],
)
def test_wrong_input_is_named(change, message):
    with pytest.raises((BadValueError, BadTypeError), match=message):
        transfer(ADAM, task(), **change)


def test_a_recipe_without_a_batch_size_has_no_ratio():
    with pytest.raises(BadValueError, match="name it first"):
        transfer(Recipe(steps=20), task(), batch_size=32)


def test_something_else_than_a_recipe_is_refused():
    with pytest.raises(BadTypeError, match="give a Recipe or a TuneResult"):
        transfer("adam", task(), batch_size=32)  # type: ignore[arg-type]
