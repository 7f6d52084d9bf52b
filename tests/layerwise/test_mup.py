"""muP by its table, its draw of the output, and by the coordinate check that it must pass."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from etude import Recipe, tasks
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.layerwise import LrMult, apply, mup_from, plan, rescale
from etude.layerwise.preparation import prepare
from etude.measure.coordinate_check import coordinate_check
from etude.training.run import Run


def net(width: int, depth: int = 2) -> nn.Module:
    return tasks.get("digits-mlp", width=width, depth=depth).build()


def test_multipliers_of_adam_follow_the_table() -> None:
    rows = {r.name: r for r in plan("mup(32)", net(128), optimizer="adamw").rows}
    assert {n: r.multiplier for n, r in rows.items()} == {
        "layers.0.linear.weight": 1.0,
        "layers.0.linear.bias": 1.0,
        "layers.1.linear.weight": 0.25,
        "layers.1.linear.bias": 1.0,
        "head.weight": 0.25,
        "head.bias": 1.0,
    }
    # AdamW shrinks by rate × decay: the product stays.
    assert all(r.multiplier * r.decay == 1 for r in rows.values())
    coupled = plan("mup(32)", net(128), optimizer="adam")
    assert {r.decay for r in coupled.rows} == {1.0}


def test_multipliers_of_sgd_follow_the_table() -> None:
    rows = plan("mup(32)", net(128), optimizer="sgd").rows
    assert {r.name: r.multiplier for r in rows} == {
        "layers.0.linear.weight": 4.0,
        "layers.0.linear.bias": 4.0,
        "layers.1.linear.weight": 1.0,
        "layers.1.linear.bias": 4.0,
        "head.weight": 0.25,
        "head.bias": 1.0,
    }


def test_at_the_base_width_nothing_changes() -> None:
    for optimizer in ("adamw", "sgd"):
        rows = plan("mup(64)", net(64), optimizer=optimizer).rows
        assert {(r.multiplier, r.decay) for r in rows} == {(1.0, 1.0)}


def test_a_base_model_finds_what_does_not_grow() -> None:
    wide, narrow = (tasks.get("digits-autoencoder", width=w, code=8).build() for w in (128, 32))
    ratios = dict(mup_from(wide, narrow).ratios)
    assert ratios["to_code.weight"] == (4.0, 1.0)
    assert ratios["decoder.0.linear.weight"] == (1.0, 4.0)
    assert ratios["decoder.1.linear.weight"] == (4.0, 4.0)
    text = repr(mup_from(wide, narrow))
    found = {r.name: r.multiplier for r in plan(text, wide).rows}
    assert found["decoder.0.linear.weight"] == 1.0
    assert found["to_code.weight"] == 0.25
    with pytest.raises(BadValueError, match=r"ratios= is of another model: it lacks"):
        plan(text, net(32))
    with pytest.raises(BadValueError, match="the base model has no"):
        mup_from(net(32, depth=3), net(16))
    with pytest.raises(BadValueError, match="the base model has layers"):
        mup_from(net(32), net(16, depth=3))


def test_inference_and_base_model_agree_where_all_grows() -> None:
    for name in ("digits-mlp", "digits-lstm", "text-gru", "text-transformer"):
        wide, narrow = (tasks.get(name, width=w).build() for w in (64, 16))
        inferred = {r.name: r.multiplier for r in plan("mup(16)", wide).rows}
        found = {r.name: r.multiplier for r in plan(repr(mup_from(wide, narrow)), wide).rows}
        assert inferred == found, name


def test_a_run_finds_the_base_model_and_draws_the_output_smaller() -> None:
    task = tasks.get("digits-autoencoder", width=64)
    plain = Run(task, Recipe(steps=1))
    own = Run(task, Recipe(steps=1, lr_mult="mup(16)"))
    kept = Run(task, Recipe(steps=1, lr_mult="mup(16, init=False)"))
    for name, p in plain.model.named_parameters():
        factor = 0.5 if name == "head.weight" else 1.0
        assert torch.equal(own.model.get_parameter(name), factor * p)
        assert torch.equal(kept.model.get_parameter(name), p)
    assert own.state.rates is not None
    rows = {r.name: r.multiplier for r in own.state.rates.plan.rows}
    assert rows["decoder.0.linear.weight"] == 1.0


def test_a_given_network_keeps_its_weights() -> None:
    model = net(64)
    spec = LrMult.of("mup(16)")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert prepare(spec, model, model) is spec
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    rescale(model, spec.policies[0])  # type: ignore[arg-type]
    assert torch.equal(model.head.weight, 0.5 * before["head.weight"])


def test_optimizers_without_a_rule_are_refused() -> None:
    model = net(32)
    with pytest.raises(BadValueError, match="mup has no rule for lamb: it is known for sgd"):
        plan("mup(16)", model, optimizer="lamb")
    with pytest.raises(BadValueError, match="mup has no rule for Rprop"):
        apply(torch.optim.Rprop(model.parameters()), model, "mup(16)")
    with pytest.raises(BadValueError, match=r"cannot be inferred: give ratios=mup_from"):
        plan("mup(16)", nn.Linear(3, 3))


# ---- the coordinate check --------------------------------------------------------------------

WIDTHS = (64, 128, 256, 512)


def check(optimizer: str, lr: float, lr_mult: str | None, name: str = "digits-mlp", **more: object):
    return coordinate_check(
        lambda width: tasks.get(name, width=width, **more),
        Recipe(optimizer=optimizer, lr=lr, batch_size=64, lr_mult=lr_mult),
        widths=WIDTHS,
        seeds=3,
    )


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("sgd", 0.1)])
@pytest.mark.parametrize("name", ["digits-mlp", "digits-autoencoder"])
def test_mup_passes(optimizer: str, lr: float, name: str) -> None:
    found = check(optimizer, lr, "mup(64)", name)
    assert found.passed, found.verdict()
    assert found.verdict().startswith("passed: from width 64 to 512")
    assert found.layers[-1].layer == "head"


@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 0.01), ("sgd", 0.1)])
def test_the_standard_parametrisation_fails_and_the_layer_is_named(
    optimizer: str, lr: float
) -> None:
    found = check(optimizer, lr, None)
    assert not found.passed
    worst = {"adamw": "head", "sgd": "head"}[optimizer]
    assert found.failing[0].layer == worst
    assert found.failing[0].slope > 0.25
    assert f"failed at {worst}: the change of its output grows with the width" in found.verdict()
    plain = found.plain()
    assert plain["passed"] is False
    assert [row["layer"] for row in plain["layers"]][-1] == "head"


def test_sgd_without_mup_leaves_the_first_layer_behind() -> None:
    slopes = {one.layer: one.slope for one in check("sgd", 0.1, None).layers}
    assert slopes["layers.0.linear"] == pytest.approx(-0.5, abs=0.15)  # 1/sqrt(width) in theory
    assert slopes["head"] == pytest.approx(0.5, abs=0.2)


def test_a_recurrent_and_a_convolutional_model_pass() -> None:
    for name, lr in (("digits-lstm", 0.01), ("digits-cnn", 0.01)):
        found = coordinate_check(
            lambda width, name=name: tasks.get(name, width=width),
            Recipe(lr=lr, batch_size=64, lr_mult="mup(16)"),
            widths=(16, 32, 64),
            seeds=2,
        )
        assert found.passed, found.verdict()


def test_a_divergence_is_no_pass() -> None:
    found = coordinate_check(
        lambda width: tasks.get("diabetes-mlp", width=width),
        Recipe(optimizer="sgd", lr=1e6, batch_size=32),
        widths=(8, 16),
        seeds=1,
        steps=20,
    )
    assert not found.passed
    assert all(one.slope == math.inf for one in found.failing)
    assert found.plain()["layers"][0]["slope"] is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"widths": (64,)}, BadValueError, "give at least two, each larger than the last"),
        ({"widths": (64, 32)}, BadValueError, "give at least two"),
        ({"steps": 0}, BadValueError, "steps=0 is out of bounds: give at least 1"),
        ({"seeds": True}, BadTypeError, "seeds=True is not a whole number"),
        ({"tolerance": 2.0}, BadValueError, "a slope between 0 and 1"),
    ],
)
def test_bad_numbers(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        coordinate_check(lambda width: tasks.get("digits-mlp", width=width), Recipe(), **options)


def test_models_with_other_layers_and_frozen_ones() -> None:
    def deeper(width: int) -> object:
        return tasks.get("digits-mlp", width=width, depth=width // 8)

    with pytest.raises(
        TaskError, match="has other layers than the model of width 8: only the width may"
    ):
        coordinate_check(deeper, Recipe(), widths=(8, 16))
    with pytest.raises(TaskError, match=r"layers\.0\.linear does not change: it is frozen"):
        coordinate_check(
            lambda width: tasks.get("digits-mlp", width=width),
            Recipe(lr_mult={"layers.0": 0.0}),
            widths=(8, 16),
        )
