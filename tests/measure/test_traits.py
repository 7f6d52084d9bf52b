"""What is measured to choose an optimizer by, on problems whose answer is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from typer.testing import CliRunner

from etude import Recipe, Task, tasks
from etude.cli.options.recipe_options import choose_recipe
from etude.cli.program import app
from etude.measure.traits import measure
from etude.optimizers import ROWS
from etude.optimizers.match import Traits, match
from tests.helpers import traits

PLAIN = traits()


def test_the_curvature_of_a_regression_is_that_of_its_inputs():
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 10
    y = x.sum(1, keepdim=True)
    task = Task(lambda: nn.Linear(10, 1, bias=False), (x, y), valid=(x, y), loss=mse_loss)
    traits = measure(task, Recipe(batch_size="all", steps=100))
    values = torch.linalg.eigvalsh(2 * x.T @ x / len(x)).double()
    assert traits.sharpness == pytest.approx(values[-1].item(), rel=1e-3)
    assert traits.negative == 0
    assert traits.spread == pytest.approx(
        (values[-1] / values.square().mean().sqrt()).item(), rel=0.5
    )
    assert traits.parameters == 10
    assert traits.matrices == 1.0


def words(*, sparse: bool) -> Task:
    x = torch.randint(0, 500, (256, 4), generator=torch.Generator().manual_seed(0))
    y = (x < 250).float().mean(1, keepdim=True)

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(500, 8, sparse=sparse), nn.Flatten(), nn.Linear(32, 1))

    return Task(model, (x, y), loss=mse_loss)


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_without_a_gradient_are_counted(sparse):
    traits = measure(words(sparse=sparse), Recipe(batch_size=16, steps=200))
    assert traits.lazy == sparse
    # 64 draws of 500 rows leave (1 - 1/500)^64 of them out.
    assert traits.sparse == pytest.approx((1 - 1 / 500) ** 64, abs=0.03)
    assert traits.tables == pytest.approx(4000 / 4033)
    assert math.isfinite(traits.sharpness)
    ranked = match(traits)
    if sparse:
        assert ranked[0].name == "sparse_adam"
        assert {one.name for one in ranked} == {n for n, r in ROWS.items() if r.sparse != "no"}
        assert "takes the model's sparse gradients" in ranked[0].reasons[0]
    else:
        adagrad = next(one for one in ranked if one.name == "adagrad")
        assert any("of the embedding rows get no gradient" in r for r in adagrad.reasons)


def test_bundled_tasks_are_read_for_what_they_are():
    kinds = {
        "digits-resnet": {"convolution", "normalisation", "linear"},
        "digits-lstm": {"recurrent", "linear"},
        "digits-transformer": {"attention", "normalisation", "linear"},
    }
    for name, want in kinds.items():
        traits = measure(tasks.load(name), Recipe(**{**tasks.load(name).defaults, "steps": 100}))
        assert want <= traits.kinds
        assert traits.noise > 0
        assert math.isfinite(traits.spread)
    assert traits.depth >= 4


def test_measuring_leaves_the_task_alone():
    network = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    before = [p.clone() for p in network.parameters()]
    x = torch.randn(64, 6)
    task = Task(network, (x, (x[:, 0] > 0).long()), loss=cross_entropy)
    state = torch.get_rng_state()
    assert measure(task, Recipe(batch_size=8, steps=50)) == measure(
        task, Recipe(batch_size=8, steps=50)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert network.training


# ---- the recommendation ------------------------------------------------------------------


def place(name: str, traits: Traits) -> int:
    return [one.name for one in match(traits)].index(name)


def score(name: str, traits: Traits) -> float:
    return next(one.score for one in match(traits) if one.name == name)


def test_the_default_is_the_default():
    assert match(PLAIN)[0].name == "adamw"
    assert match(PLAIN)[0].reasons == ("the usual default: seldom the best, rarely far from it",)
    assert score("sgd", replace(PLAIN, spread=3.0)) > score("sgd", PLAIN)


@pytest.mark.parametrize(
    ("name", "change", "sign"),
    [
        ("adamw", {"kinds": frozenset({"attention"})}, 1),
        ("sgd", {"kinds": frozenset({"attention"})}, -1),
        ("sgd", {"kinds": frozenset({"convolution", "normalisation"})}, 1),
        ("sgd", {"spread": 200.0}, -1),
        ("soap", {"spread": 200.0}, 1),
        ("sgd", {"bursts": 20.0}, -1),
        ("muon", {"matrices": 0.95}, 1),
        ("lamb", {"batch_size": 8192, "noise": 1e4}, 1),
        ("newton_cg", {"noise": 1.0, "depth": 1}, 1),
        ("adagrad", {"tables": 0.9, "sparse": 0.95}, 1),
        ("rmsprop", {"kinds": frozenset({"recurrent"})}, 1),
        ("adafactor", {"parameters": 10**9}, 1),
    ],
)
def test_a_trait_moves_those_it_speaks_of(name, change, sign):
    changed = replace(PLAIN, **change)
    assert sign * (score(name, changed) - score(name, PLAIN)) > 0
    before, after = (
        {r for m in match(t) if m.name == name for r in m.reasons} for t in (PLAIN, changed)
    )
    assert any(reason.startswith("but: ") == (sign < 0) for reason in after - before)


def test_reasons_carry_the_numbers():
    traits = replace(PLAIN, spread=123.4, noise=7_000.0, bursts=17.0, matrices=0.97)
    text = " ".join(r for one in match(traits) for r in one.reasons)
    for number in ("123", "7e+03 samples, the batch 64", "17 times the median", "97% of 20,000"):
        assert number in text


def test_newton_is_offered_only_where_it_fits():
    assert "newton" not in [m.name for m in match(PLAIN)]
    small = replace(PLAIN, parameters=1500, noise=1.0, samples=400, depth=1)
    assert {m.name for m in match(small)[:2]} == {"lbfgs", "newton"}
    newton = next(m for m in match(small) if m.name == "newton")
    assert newton.settings == {"batch_size": "all", "lr": 1.0}
    assert next(m for m in match(replace(PLAIN, bursts=9.0)) if m.name == "adamw").settings == {
        "clip_percentile": 90
    }


@given(
    st.builds(
        replace,
        st.just(PLAIN),
        noise=st.floats(0, exclude_min=True) | st.just(math.inf),
        spread=st.floats(1, 1e6) | st.just(math.nan),
        bursts=st.floats(1, 1e6),
        parameters=st.integers(1, 10**10),
        batch_size=st.integers(1, 10**6),
        lazy=st.booleans(),
    )
)
def test_every_task_gets_a_ranking(traits):
    ranked = match(traits)
    assert [m.score for m in ranked] == sorted((m.score for m in ranked), reverse=True)
    assert len({m.name for m in ranked}) == len(ranked) > 0
    json.dumps(traits.plain(), allow_nan=False)
    for one in ranked:
        chosen = {k: v for k, v in one.settings.items() if "." not in k}
        Recipe(optimizer=one.name, **chosen)


# ---- the command line --------------------------------------------------------------------


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_on_the_command_line():
    listed = json.loads(run("optimizers", "--json"))
    assert [one["name"] for one in listed] == list(ROWS)
    assert listed[0]["hyperparameters"]["momentum"] == {"default": 0.0, "bounds": "in [0, 1)"}
    text = run("optimizers")
    assert all(name in text for name in ROWS)
    shown = run("optimizers", "show", "muon")
    assert "kellerjordan" in shown
    assert "ns_steps" in shown
    assert json.loads(run("optimizers", "show", "adamw", "--json"))["weight_decay"] == "decoupled"
    wrong = CliRunner().invoke(app, ["optimizers", "show", "adamv"])
    assert wrong.exit_code == 2
    assert "unknown optimizer 'adamv': did you mean 'adamw'" in wrong.output


def test_a_recommendation_on_the_command_line():
    text = run("optimizers", "match", "cancer-mlp", "--top", "2")
    assert "noise scale" in text
    assert "To find its rate: etude tune" in text
    document = json.loads(run("optimizers", "match", "cancer-mlp", "--json"))
    assert document["traits"]["parameters"] > 0
    assert document["ranked"][0]["reasons"]


def test_another_kind_of_optimizer_brings_its_own_rate_and_schedule():
    task = tasks.load("digits-mlp")
    assert task.defaults["lr"] == 1e-3

    def chosen(**fields: object) -> Recipe:
        return choose_recipe(task, None, None, **fields)

    assert chosen(optimizer="sgd").lr == 1e-3
    assert chosen(optimizer="prodigy").lr == 1.0
    assert chosen(optimizer="prodigy", lr=0.5).lr == 0.5
    assert repr(chosen(optimizer="lbfgs").schedule) == "constant()"
    assert repr(chosen(optimizer="schedulefree_sgd").schedule) == "warmup('5%') >> constant()"
    assert chosen(optimizer="adam").schedule == Recipe(**task.defaults).schedule
    kept = chosen(optimizer="lbfgs", schedule="cosine()")
    assert repr(kept.schedule) == "cosine()"
