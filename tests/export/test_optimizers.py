"""The optimizers that are written for optax and Keras make torch's updates."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from typing import Any

import numpy as np
import pytest
import torch

from etude import optimizers
from etude.errors import BadValueError
from etude.export import export_code
from etude.export.keras import OPTIMIZERS as KERAS
from etude.export.optax import OPTIMIZERS as OPTAX
from etude.recipe import Recipe

STEPS = 12
START = np.linspace(-1, 1, 6)
GRADIENTS = np.random.default_rng(0).normal(size=(2 * STEPS, 6)) + 0.3

CHOICES: dict[str, list[dict[str, Any]]] = {
    "adam": [{}, {"betas": (0.8, 0.9), "eps": 1e-6}],
    "adamax": [{}],
    "adamw": [{"weight_decay": 0.1}],
    "lion": [{"weight_decay": 0.1}],
    "rmsprop": [{}, {"alpha": 0.9, "centered": True}],
    "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
}
CASES = [(name, values) for name, listed in CHOICES.items() for values in listed]
CHANGES: list[dict[str, Any]] = [
    {},
    {"clip_norm": 0.5},
    {"clip_value": 0.2},
    {"accumulate": 2},
]


def by_torch(recipe: Recipe) -> np.ndarray:
    """Train by hand, as `etude.train` does."""
    weights = torch.nn.Parameter(torch.tensor(START))
    choice = recipe.optimizer
    optimizer = optimizers.build(choice.name, [weights], lr=recipe.lr, **choice.hyperparameters)
    schedule = recipe.schedule.over(STEPS)
    for t in range(STEPS):
        mean = GRADIENTS[t * recipe.accumulate : (t + 1) * recipe.accumulate].mean(0)
        weights.grad = torch.tensor(mean)
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([weights], recipe.clip_norm)
        if recipe.clip_value is not None:
            torch.nn.utils.clip_grad_value_([weights], recipe.clip_value)
        optimizer.param_groups[0]["lr"] = recipe.lr * schedule(t)
        optimizer.step()
    return weights.detach().numpy()


def by_optax(recipe: Recipe) -> np.ndarray:
    jax = pytest.importorskip("jax")
    optax = pytest.importorskip("optax")
    with jax.enable_x64(True):
        place: dict[str, Any] = {}
        exec(export_code(recipe, "optax", STEPS), place)
        weights = jax.numpy.asarray(START)
        state = place["optimizer"].init(weights)
        update = jax.jit(place["optimizer"].update)
        for gradient in GRADIENTS[: STEPS * recipe.accumulate]:
            change, state = update(jax.numpy.asarray(gradient), state, weights)
            weights = optax.apply_updates(weights, change)
        return np.asarray(weights)


def by_keras(recipe: Recipe) -> np.ndarray:
    keras = pytest.importorskip("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        place: dict[str, Any] = {}
        exec(export_code(recipe, "keras", STEPS), place)
        with keras.device("cpu"):
            weights = keras.Variable(START, dtype="float64")
            place["optimizer"].build([weights])
            for gradient in GRADIENTS[: STEPS * recipe.accumulate]:
                one = keras.ops.convert_to_tensor(gradient, dtype="float64")
                place["optimizer"].apply([one], [weights])
            return keras.ops.convert_to_numpy(weights)
    finally:
        keras.config.set_floatx(before)


def recipe_of(name: str, values: dict[str, Any], **changes: Any) -> Recipe:
    shape = "warmup(3, start=0.2) >> cosine()"
    return Recipe(optimizer={"name": name, **values}, lr=0.05, schedule=shape, **changes)


def test_every_optimizer_is_here():
    assert set(CHOICES) == set(OPTAX) >= set(KERAS)


@pytest.mark.parametrize(("name", "values"), CASES)
def test_optax_makes_the_updates_of_torch(name, values):
    recipe = recipe_of(name, values)
    assert np.allclose(by_optax(recipe), by_torch(recipe), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("changes", CHANGES)
def test_optax_clips_and_accumulates_as_torch_does(changes):
    recipe = recipe_of("adamw", {"weight_decay": 0.1}, **changes)
    assert np.allclose(by_optax(recipe), by_torch(recipe), rtol=1e-5, atol=1e-6)


def test_optax_adds_the_decay_of_adam_and_sgd_to_the_gradient():
    for name in ("adam", "sgd"):
        recipe = recipe_of(name, {"weight_decay": 0.1})
        assert np.allclose(by_optax(recipe), by_torch(recipe), rtol=1e-6, atol=1e-7)
        without = recipe_of(name, {})
        assert not np.allclose(by_optax(recipe), by_optax(without), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "values"), [case for case in CASES if case[0] in KERAS and "momentum" not in case[1]]
)
def test_keras_makes_the_updates_of_torch(name, values):
    recipe = recipe_of(name, {**values, **({"eps": 1e-12} if "adam" in name else {})})
    assert np.allclose(by_keras(recipe), by_torch(recipe), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_keras_makes_the_updates_of_momentum_at_a_constant_rate(nesterov):
    values = {"momentum": 0.9, "nesterov": nesterov}
    recipe = recipe_of("sgd", values).replace(schedule="constant()")
    assert np.allclose(by_keras(recipe), by_torch(recipe), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", CHANGES)
def test_keras_clips_and_accumulates_as_torch_does(changes):
    recipe = recipe_of("adamw", {"weight_decay": 0.1, "eps": 1e-12}, **changes)
    assert np.allclose(by_keras(recipe), by_torch(recipe), rtol=1e-5, atol=1e-6)


REFUSED = [
    ("optax", "adam", {"amsgrad": True}, {}, r"optimizer.amsgrad=True: optax keeps another"),
    ("optax", "rmsprop", {"momentum": 0.9}, {}, r"optimizer.momentum=0.9: optax puts the rate"),
    ("optax", "sgd", {"momentum": 0.9, "dampening": 0.5}, {}, r"optimizer.dampening=0.5: optax"),
    ("optax", "nadam", {}, {}, r"optimizer='nadam': optax has none .* Choose adam or adamax"),
    ("keras", "sgd", {"momentum": 0.9}, {}, r"momentum=0.9 with schedule .*: Keras keeps the rate"),
    ("keras", "adam", {"weight_decay": 0.1}, {}, r"optimizer.weight_decay=0.1: Keras decays"),
    ("keras", "rmsprop", {}, {}, r"optimizer='rmsprop': Keras has none"),
    ("keras", "adamw", {}, {"clip_norm": 1.0, "clip_value": 1.0}, r"clips in one way: leave one"),
    ("nanogpt", "adamw", {"eps": 1e-6}, {}, r"optimizer.eps=1e-06: nanoGPT keeps torch's epsilon"),
    ("torchtitan", "adam", {}, {}, r"optimizer='adam': torchtitan's default_adamw has none"),
    ("axolotl", "adamw", {}, {"clip_value": 1.0}, r"clip_value=1.0: Axolotl clips the norm only"),
    ("lambda-lr", "soap", {}, {}, r"optimizer='soap' is not one of torch's own"),
]


@pytest.mark.parametrize(("target", "name", "values", "changes", "said"), REFUSED)
def test_other_updates_are_refused(target, name, values, changes, said):
    with pytest.raises(BadValueError, match=said):
        export_code(recipe_of(name, values, **changes), target, STEPS)


def test_a_model_with_the_optimizer_of_keras_is_saved_and_loaded(tmp_path):
    keras = pytest.importorskip("keras")
    place: dict[str, Any] = {}
    exec(export_code(Recipe(lr=0.01, clip_norm=1.0), "keras", STEPS), place)
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile(optimizer=place["optimizer"], loss="mse")
    x = np.linspace(-1, 1, 32).reshape(16, 2)
    model.fit(x, x.sum(1), epochs=2, batch_size=8, verbose=0)
    rate = Recipe().schedule.over(STEPS)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01 * rate(4), rel=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert float(again.optimizer.learning_rate) == pytest.approx(0.01 * rate(4), rel=1e-5)


def test_the_lambda_of_torch_needs_no_etude():
    recipe = Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=0.1, schedule="step(4, 0.5)")
    code = export_code(recipe, "lambda-lr", STEPS)
    assert "etude" not in code
    place: dict[str, Any] = {"model": torch.nn.Linear(1, 1)}
    exec(code, place)
    rates = []
    for _ in range(STEPS):
        rates.append(place["optimizer"].param_groups[0]["lr"])
        place["optimizer"].step()
        place["scheduler"].step()
    assert rates == pytest.approx([0.1 * recipe.schedule(t) for t in range(STEPS)], rel=1e-12)
