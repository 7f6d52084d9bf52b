"""Recipes: what is written is what is read, what is equal trains alike, what is wrong is named."""

from __future__ import annotations

import copy
import json
import math
import pickle
import tomllib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, train
from etude.errors import BadTypeError, BadValueError, EtudeError, StorageError
from etude.recipe import OptimizerChoice, RecipeError
from etude.recipe_digest import SINCE, digest_before, digest_of
from etude.recipe_exchange import PowerSGD
from etude.schedules import parse

shares = st.floats(0, 1, exclude_max=True)
amounts = st.floats(0, 1e6)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
pairs = st.tuples(shares, shares)


def chosen(name: str, **fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({"name": st.just(name)}, optional=fields)


OPTIMIZERS = st.one_of(
    st.sampled_from(["sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam"]),
    chosen("sgd", momentum=shares, weight_decay=amounts, dampening=shares),
    chosen("adamw", betas=pairs, eps=amounts, weight_decay=amounts, amsgrad=st.booleans()),
    chosen("rmsprop", alpha=shares, momentum=shares, centered=st.booleans()),
)
SCHEDULES = st.sampled_from(
    [
        "constant()",
        "warmup('5%') >> cosine()",
        "warmup(500) >> cosine(9_500, floor=0.01)",
        "polynomial(power=2)",
        "0.1 * step(0.5, 10)",
        "exponential(0.95)",
        "linear('2 epochs')",
    ]
)
RECIPES = st.fixed_dictionaries(
    {},
    optional={
        "optimizer": OPTIMIZERS,
        "lr": positive,
        "schedule": SCHEDULES,
        "schedules": st.dictionaries(st.just("weight_decay"), SCHEDULES),
        "steps": st.one_of(st.integers(1, 10**9), st.sampled_from(["20 epochs", "1e6 samples"])),
        "lr_mult": st.sampled_from(
            [None, {"*bias": 2.0, "0.*": 0.5}, {"0.*": 0.5, "*bias": 2.0}, "decay(0.75)"]
        ),
        "batch_size": st.one_of(st.none(), st.integers(1, 10**6), st.just("all")),
        "accumulate": st.integers(1, 1000),
        "clip_norm": st.one_of(st.none(), positive),
        "clip_value": st.one_of(st.none(), positive),
        "clip_adaptive": st.one_of(st.none(), positive),
        "clip_percentile": st.one_of(st.none(), st.floats(0, 100, exclude_min=True)),
        "spikes": st.sampled_from([None, "skip", "rewind(back=50)", "skip(sigmas=5.5)"]),
        "l1": st.one_of(st.none(), positive),
        "l2": st.one_of(st.none(), positive),
        "activity": st.one_of(st.none(), positive),
        "dropout": st.one_of(st.none(), shares),
        "label_smoothing": st.one_of(st.none(), shares),
        "early_stopping": st.one_of(st.none(), st.integers(1, 100)),
        "evaluations": st.integers(1, 1000),
        "initialisation": st.sampled_from([None, "default", "he_normal", "orthogonal", "lsuv"]),
        "precision": st.sampled_from(["float32", "bfloat16", "float16"]),
        "compress": st.sampled_from([None, "fp16", "powersgd(rank=2)", "local-sgd(period=4)"]),
        "seed": st.integers(0, 2**63 - 1),
    },
).map(lambda fields: Recipe(**fields))


def test_the_strategy_above_reaches_every_field():
    reached: set[str] = set()

    @settings(max_examples=300, database=None)
    @given(RECIPES)
    def collect(recipe):
        default = Recipe()
        reached.update(n for n in Recipe.model_fields if getattr(recipe, n) != getattr(default, n))

    collect()
    assert reached == set(Recipe.model_fields)


@given(RECIPES)
def test_text_forms_read_back_equal(recipe):
    for again in (Recipe.from_toml(recipe.to_toml()), Recipe.from_json(recipe.to_json())):
        assert again == recipe
        assert again.plain() == recipe.plain()
        assert hash(again) == hash(recipe)
    assert Recipe(**tomllib.loads(tomllib_safe(recipe))) == recipe


def tomllib_safe(recipe: Recipe) -> str:
    """The TOML without its version: what a user would write by hand."""
    return "\n".join(line for line in recipe.to_toml().splitlines() if line != "version = 1")


@given(RECIPES, RECIPES)
def test_digests_are_equal_where_recipes_are(one, two):
    assert (one.digest == two.digest) == (one == two)
    assert one.digest == Recipe.from_json(one.to_json()).digest


def test_a_digest_is_the_same_today_and_tomorrow():
    # Written down once: a change of this text orphans every recipe that was ever recorded.
    assert Recipe().digest == "67aace05933d01e2"
    assert Recipe(lr=0.1, steps=100).digest == "9c1eb923d8b506b0"


def test_the_first_digests_are_still_read():
    """As checkpoints hold them that were written before digests covered every value."""
    assert Recipe().has_digest("44136fa355b3678a")
    assert Recipe(lr=0.1, steps=100).has_digest("bb2059f9c47ca5a3")
    assert not Recipe(lr=0.1, steps=101).has_digest("bb2059f9c47ca5a3")
    for other in (None, "", 3, ["44136fa355b3678a"], {}):
        assert not Recipe().has_digest(other)


@given(RECIPES, RECIPES)
def test_no_digest_of_another_recipe_is_taken(one, two):
    for digest in (two.digest, digest_before(two._ordered())):
        assert one.has_digest(digest) == (one == two)


OTHER = {
    "optimizer": "sgd",
    "lr": 0.002,
    "lr_mult": {"*bias": 2.0},
    "schedule": "cosine()",
    "schedules": {"weight_decay": "linear()"},
    "steps": "21 epochs",
    "batch_size": 65,
    "accumulate": 2,
    "clip_norm": 1.0,
    "clip_value": 1.0,
    "clip_adaptive": 1.0,
    "clip_percentile": 1.0,
    "spikes": "skip",
    "l1": 1.0,
    "l2": 1.0,
    "activity": 1.0,
    "dropout": 0.0,
    "label_smoothing": 0.0,
    "early_stopping": 1,
    "initialisation": "default",
    "evaluations": 21,
    "precision": "bfloat16",
    "compress": "topk",
    "seed": 1,
}
"""Of every field another value than the default's, with `None` told from 0."""


def test_the_digest_knows_every_field_and_the_version(monkeypatch):
    assert set(OTHER) == set(Recipe.model_fields)
    changed = [Recipe(**{name: value}).digest for name, value in OTHER.items()]
    assert len({Recipe().digest, *changed}) == 1 + len(OTHER)
    before = Recipe().digest
    monkeypatch.setattr("etude.recipe.FORMAT", 2)
    assert Recipe().digest != before


def test_a_field_that_is_younger_than_the_digest_leaves_older_recipes_theirs():
    """The digest of a recipe that does not use it is what it was before the field was there."""
    values = Recipe()._ordered()
    older = {name: value for name, value in values.items() if name not in SINCE}
    assert digest_of(older, 1) == Recipe().digest


def test_the_digest_covers_what_equals_a_default():
    """Were a default to change, the digest of an empty recipe would change, that of a full not."""
    values = Recipe()._ordered()
    assert set(values) == set(Recipe.model_fields)
    for name in set(values) - SINCE:
        without = {key: value for key, value in values.items() if key != name}
        assert digest_of(without, 1) != Recipe().digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optimizer": "sgd"}, {"optimizer": {"name": "sgd"}}),
        (
            {"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}},
            {"optimizer": {"nesterov": True, "name": "sgd", "momentum": 0.9}},
        ),
        ({"optimizer": {"name": "adamw", "betas": (0.9, 0.99)}},
         {"optimizer": {"name": "adamw", "betas": [0.9, 0.99]}}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"clip_norm": 2}, {"clip_norm": 2.0}),
        ({"schedule": "warmup('5%')>>cosine( )"}, {"schedule": "warmup('5%') >> cosine()"}),
        ({"schedule": "cosine(10000)"}, {"schedule": parse("cosine(10_000)")}),
        ({"schedules": {"weight_decay": "linear()", "eps": "linear(end=1)"}},
         {"schedules": {"eps": "linear(end=1)", "weight_decay": "linear()"}}),
        ({"lr_mult": {"*bias": 2}}, {"lr_mult": {"*bias": 2.0}}),
        ({"lr_mult": None, "batch_size": None}, {}),
    ],
)  # fmt: skip
def test_the_digest_does_not_know_how_a_recipe_was_spelt(one, other):
    assert Recipe(**one).digest == Recipe(**other).digest


@pytest.mark.parametrize("zero", [-0.0, 0.0, 0])
def test_equal_numbers_have_equal_digests(zero):
    assert Recipe(optimizer={"name": "sgd", "momentum": zero}).digest == (
        Recipe(optimizer={"name": "sgd", "momentum": 0.0}).digest
    )


@given(RECIPES)
def test_copies_and_pickles_are_equal(recipe):
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert copy.deepcopy(recipe) == copy.copy(recipe) == recipe
    assert recipe.replace() == recipe
    assert recipe.replace(seed=recipe.seed ^ 1) != recipe


def test_the_schedule_may_be_an_object_or_its_text():
    text = "warmup(10) >> cosine(90)"
    assert Recipe(schedule=parse(text)) == Recipe(schedule=text)
    assert Recipe(optimizer=OptimizerChoice("sgd")) == Recipe(optimizer="sgd")


def test_a_recipe_is_frozen():
    recipe = Recipe(schedules={"weight_decay": "constant(0.1)"}, optimizer="adamw")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.lr = 0.5
    with pytest.raises(TypeError, match="does not support item assignment"):
        recipe.schedules["eps"] = parse("constant()")
    with pytest.raises(TypeError, match="does not support item assignment"):
        recipe.optimizer.hyperparameters["eps"] = 1.0


# ---- every field acts --------------------------------------------------------------------


def small_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))

    return Task(model, (x, y), loss=cross_entropy)


BASE = {"optimizer": "adamw", "lr": 0.05, "steps": 12, "batch_size": 16, "evaluations": 6}
CHANGED = {
    "optimizer": {"name": "adamw", "weight_decay": 0.5},
    "lr": 0.051,
    "schedule": "constant()",
    "schedules": {"momentum": "0.9 * linear(end=0.5)"},
    "steps": 13,
    "batch_size": 8,
    "accumulate": 2,
    "clip_norm": 1e-3,
    "clip_value": 1e-4,
    "lr_mult": {"0.*": 0.5},
    "clip_adaptive": 1e-3,
    "clip_percentile": 50.0,
    "spikes": "zclip(z=0.01, warmup=5)",
    "l1": 1e-3,
    "l2": 1e-3,
    "activity": 1e-3,
    "dropout": 0.5,
    "label_smoothing": 0.1,
    "early_stopping": 1,
    "evaluations": 3,
    "initialisation": "orthogonal",
    "precision": "bfloat16",
    "seed": 1,
}


def outcome(recipe: Recipe) -> list[float]:
    record = train(small_task(), recipe)
    weights = torch.cat([p.flatten() for p in record.model.parameters()])
    return [len(record.evaluations), *record.series["loss"].tolist(), *weights.tolist()]


@pytest.mark.parametrize("field", [name for name in Recipe.model_fields if name != "compress"])
def test_every_field_changes_the_training(field):
    # A rate so high that the validation loss rises, which is what early stopping waits for.
    base = Recipe(**BASE).replace(**({"lr": 1.0} if field == "early_stopping" else {}))
    assert outcome(base.replace(**{field: CHANGED[field]})) != outcome(base)


def test_compress_changes_what_several_processes_exchange_and_is_refused_in_one():
    """What it changes in several is tested in tests/distributed/exchange."""
    with pytest.raises(BadValueError, match=r"compress='topk\(\)' says how .* has one process"):
        train(small_task(), Recipe(**BASE, compress="topk"))


# ---- what is wrong -----------------------------------------------------------------------

WRONG = [
    ({"learning_rate": 0.1}, "unknown field 'learning_rate' in the recipe: did you mean 'lr'"),
    ({"epochs": 3}, "unknown field 'epochs' in the recipe: did you mean 'steps'"),
    ({"scheduel": "cosine()"}, "unknown field 'scheduel' in the recipe: did you mean 'schedule'"),
    ({"lr": -0.1}, "lr=-0.1 is out of bounds: give a number above 0"),
    ({"lr": 0}, "lr=0 is out of bounds: give a number above 0"),
    ({"lr": math.nan}, "lr=nan is not finite"),
    ({"lr": math.inf}, "lr=inf is not finite: give a finite number"),
    ({"lr": True}, "lr=True is not a number"),
    ({"lr": "0.1"}, "lr='0.1' is not a number: give one without quotes"),
    ({"lr": [1]}, r"lr=\[1\] is not a number"),
    ({"lr": None}, "lr=None is not a number"),
    ({"batch_size": 0}, "batch_size=0 is out of bounds: give a number of at least 1"),
    ({"batch_size": True}, "batch_size=True is not a number"),
    ({"batch_size": 1.5}, "batch_size=1.5 is not a whole number"),
    ({"accumulate": 0}, "accumulate=0 is out of bounds"),
    ({"accumulate": False}, "accumulate=False is not a number"),
    ({"clip_norm": 0.0}, "clip_norm=0.0 is out of bounds"),
    ({"clip_norm": math.nan}, "clip_norm=nan is not finite"),
    ({"clip_value": -1}, "clip_value=-1 is out of bounds"),
    ({"clip_value": True}, "clip_value=True is not a number"),
    ({"precision": "float8"}, "unknown precision 'float8': did you mean .*'float16'"),
    ({"precision": "fp16"}, "unknown precision 'fp16': did you mean 'float16'"),
    ({"schedule": None}, r'schedule is None: give "constant\(\)"'),
    ({"schedule": abs}, "schedule is a builtin_function_or_method: register it by a name"),
    ({"schedules": {"momentum": None}}, "a value of schedules is None"),
    ({"schedule": "warmup(2) >> cosine(-5)"}, r"schedule: cosine\(-5\): length is -5"),
    ({"steps": "1e3"}, "steps is '1e3'; it has no unit: did you mean 1000 or '1e3 steps'"),
    ({"seed": -1}, "seed=-1 is out of bounds"),
    ({"seed": 2**63}, "seed=9223372036854775808 is out of bounds"),
    ({"seed": True}, "seed=True is not a number"),
    ({"steps": 0}, "steps=0 is out of bounds: give at least 1"),
    ({"steps": True}, "steps=True: give a whole number"),
    ({"steps": 1.5}, "steps=1.5: give a whole number"),
    ({"steps": "5%"}, "steps='5%': a run's length is not a percentage"),
    ({"steps": "20 eopchs"}, "unknown unit 'eopchs': did you mean 'epochs'"),
    ({"steps": "-3 epochs"}, "'-3 epochs'; a duration reads like"),
    ({"optimizer": "adamv"}, "unknown optimizer 'adamv': did you mean 'adam"),
    ({"optimizer": 3}, "optimizer=3: give a name, or a table"),
    ({"optimizer": {"momentum": 0.9}}, r"optimizer=\{'momentum': 0.9\}: give a name, or a table"),
    ({"optimizer": {"name": "sgd", "momentun": 0.9}}, "did you mean 'momentum'"),
    ({"optimizer": {"name": "sgd", "momentum": -1}}, "sgd.momentum=-1 is out of bounds"),
    ({"optimizer": {"name": "sgd", "momentum": math.nan}}, "sgd.momentum=nan is out of bounds"),
    ({"optimizer": {"name": "sgd", "momentum": True}}, "sgd.momentum=True is not a number"),
    ({"optimizer": {"name": "sgd", "weight_decay": 10**400}}, "weight_decay=1000.*out of bounds"),
    ({"schedule": "cosin()"}, "unknown schedule 'cosin': did you mean 'cosine'"),
    ({"schedule": "__import__('os').system('ls')"}, "schedule: "),
    ({"schedule": 3}, "a schedule is read from text, not from int"),
    ({"schedules": {"lr": "constant()"}}, "give the rate's schedule as the field 'schedule'"),
    ({"schedules": {"rho": "constant()"}}, r"schedules\['rho'\]: adamw has no such hyperparameter"),
    ({"schedules": {"betas": "constant()"}}, "schedule 'momentum', the first beta"),
    (
        {"schedules": {"amsgrad": "constant()"}},
        "cannot change it during training: give it a fixed value",
    ),
    (
        {"optimizer": "adagrad", "schedules": {"initial_accumulator_value": "constant()"}},
        "cannot change it during training",
    ),
    ({"optimizer": "adagrad", "schedules": {"momentum": "constant()"}}, "adagrad has no momentum"),
    ({"schedules": {"eps": "cosin()"}}, "unknown schedule 'cosin'"),
    ({"schedules": "x"}, "schedules='x' is not a table: give names and values"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[str(f)[:40] for f, _ in WRONG])
def test_a_wrong_field_is_one_clear_message(fields, message):
    with pytest.raises((BadValueError, BadTypeError), match=message) as caught:
        Recipe(**fields)
    assert isinstance(caught.value, EtudeError)
    assert "\n" not in str(caught.value)
    with pytest.raises((BadValueError, BadTypeError), match=message):
        Recipe().replace(**fields)


def test_every_field_that_is_wrong_is_named():
    with pytest.raises(RecipeError, match=r"lr=-1 .*; batch_size=0 .*"):
        Recipe(lr=-1, batch_size=0)


@pytest.mark.parametrize("read", [Recipe.from_toml, Recipe.from_json])
def test_versions(read):
    def text(version: object) -> str:
        return f"version = {version}" if read == Recipe.from_toml else f'{{"version": {version}}}'

    assert read(text(1)) == Recipe()
    with pytest.raises(RecipeError, match="version 2, this is 1: upgrade etude"):
        read(text(2))
    with pytest.raises(RecipeError, match="version 0, this is 1: write version = 1"):
        read(text(0))
    with pytest.raises(RecipeError, match="version True, this is 1"):
        read(text("true"))


def test_text_that_is_no_recipe():
    with pytest.raises(RecipeError, match="not valid TOML"):
        Recipe.from_toml("lr = ")
    with pytest.raises(RecipeError, match="not valid JSON"):
        Recipe.from_json('{"lr": 1')
    with pytest.raises(RecipeError, match="a recipe is a table of fields, not a list"):
        Recipe.from_json("[1]")
    with pytest.raises(RecipeError, match="not valid JSON: NaN is no number of JSON"):
        Recipe.from_json('{"lr": NaN}')


@pytest.mark.parametrize("name", ["recipe.toml", "recipe.json"])
def test_files(tmp_path, name):
    path = tmp_path / name
    recipe = Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=0.5, steps="3 epochs")
    recipe.save(path)
    assert Recipe.load(path) == recipe
    content = path.read_text(encoding="utf-8")
    path.write_text(content[: len(content) // 2], encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"{name}: the recipe is not valid"):
        Recipe.load(path)
    damaged = '{"leer": 1}' if name.endswith("json") else "leer = 1"
    path.write_text(damaged, encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"{name}: unknown field 'leer'.*did you mean 'lr'"):
        Recipe.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match=name):
        Recipe.load(path)
    path.unlink()
    with pytest.raises(StorageError, match=f"cannot read the recipe .*{name}.*No such file"):
        Recipe.load(path)


@pytest.mark.parametrize("name", ["mine.yaml", "mine", "mine.toml.bak"])
def test_a_recipe_is_saved_only_under_a_name_that_says_its_format(tmp_path, name):
    with pytest.raises(BadValueError, match=r"give a name that ends in \.toml or \.json"):
        Recipe().save(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_the_plain_form_is_json_without_a_reader_of_ours():
    plain = json.loads(Recipe(optimizer={"name": "adamw", "betas": (0.8, 0.9)}).to_json())
    assert plain["optimizer"] == {"name": "adamw", "betas": [0.8, 0.9]}
    assert plain["version"] == 1


def test_a_huge_recipe_is_refused_at_once(tmp_path):
    """A stranger's file must not keep the machine busy."""
    many = tmp_path / "many.toml"
    many.write_text("\n".join(f"k{i} = 1" for i in range(100_000)))
    with pytest.raises(StorageError, match="at most 1,048,576 are read"):
        Recipe.load(many)
    many.write_text("\n".join(f"k{i} = 1" for i in range(20_000)))
    with pytest.raises(RecipeError, match=r"unknown field 'k0'.*and 19,997 more mistakes"):
        Recipe.load(many)
    many.write_text(".".join(["a"] * 100_000) + " = 1")
    with pytest.raises(RecipeError, match="a line with more than 1,000 dots"):
        Recipe.load(many)


@pytest.mark.parametrize("made", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_other_libraries_are_stored_as_plain_ones(made):
    names = ("steps", "batch_size", "seed", "evaluations", "accumulate")
    plain, given = Recipe(**dict.fromkeys(names, 8)), Recipe(**dict.fromkeys(names, made(8)))
    assert given.to_toml() == plain.to_toml()
    assert given.to_json() == plain.to_json()
    assert given.digest == plain.digest
    assert all(type(getattr(given, name)) is int for name in names)
    assert (
        Recipe(compress=PowerSGD(rank=made(2))).digest == Recipe(compress="powersgd(rank=2)").digest
    )


@pytest.mark.parametrize("flag", [np.True_, torch.tensor(True)])
@pytest.mark.parametrize("name", ["steps", "batch_size", "seed", "lr"])
def test_flags_of_other_libraries_are_no_numbers(name, flag):
    with pytest.raises(BadTypeError, match=f"{name}=.*[Tt]rue"):
        Recipe(**{name: flag})
