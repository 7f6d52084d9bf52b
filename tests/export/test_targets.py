"""What is written for another program gives the recipe's rate there, update by update."""

from __future__ import annotations

import math
import tomllib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

import etude
from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.export import TARGETS, export_code
from etude.recipe import Recipe
from etude.schedules import (
    KINDS,
    Clock,
    Schedule,
    constant,
    cosine,
    linear,
    parse,
    polynomial,
    rsqrt,
    warmup,
    wsd,
)

STEPS = 60
few = settings(max_examples=40, deadline=None)
CURVES = [name for name, row in TARGETS.items() if row.curves]
CLOCK = Clock(horizon=STEPS, steps_per_epoch=6, samples_per_step=8, tokens_per_step=64)
ALL = sorted({text for row in KINDS.values() for text in row.examples})


def fits(text: str) -> bool:
    """Whether a run of 60 updates can train with a schedule."""
    try:
        Recipe(schedule=parse(text).over(CLOCK))
    except BadValueError:
        return False
    return True


EXAMPLES = [text for text in ALL if "function" not in text and fits(text)]


# ---- what each program makes of its configuration -----------------------------------------------


def nanogpt_rates(code: str, steps: int) -> list[float]:
    """By the formula of nanoGPT's train.py, whose loop makes the updates 0 to max_iters."""
    place: dict[str, Any] = {}
    exec(code, place)
    c = SimpleNamespace(**place)
    assert c.max_iters == steps - 1

    def at(t: int) -> float:
        if not c.decay_lr:
            return c.learning_rate
        if t < c.warmup_iters:
            return c.learning_rate * (t + 1) / (c.warmup_iters + 1)
        if t > c.lr_decay_iters:
            return c.min_lr
        share = (t - c.warmup_iters) / (c.lr_decay_iters - c.warmup_iters)
        return c.min_lr + (1 + math.cos(math.pi * share)) / 2 * (c.learning_rate - c.min_lr)

    return [at(t) for t in range(steps)]


def titan_rates(lr: float, values: dict[str, Any], steps: int) -> list[float]:
    """By the formula of torchtitan's scheduler: warmup from 1/W, constant, decay."""
    total = values.get("total_steps", steps)
    rising = values["warmup_steps"]
    ratio = values.get("decay_ratio")
    falling = total - rising if ratio is None else round(total * ratio)
    assert rising + falling <= total  # torchtitan would shorten the decay
    begin = total + 1 - falling
    floor, curve = values["min_lr_factor"], values["decay_type"]

    def at(t: int) -> float:
        if t < rising:
            return (t + 1) / rising
        if t < begin:
            return 1.0
        u = (t + 1 - begin) / falling
        left = {
            "linear": 1 - u,
            "sqrt": 1 - math.sqrt(u),
            "cosine": (1 + math.cos(math.pi * u)) / 2,
        }
        return floor + (1 - floor) * left[curve]

    return [lr * at(t) for t in range(steps)]


def toml_rates(code: str, steps: int) -> list[float]:
    tables = tomllib.loads(code)
    assert tables["training"]["steps"] == steps
    return titan_rates(tables["optimizer"]["lr"], tables["lr_scheduler"], steps)


def python_titan(code: str) -> SimpleNamespace:
    """Call the function of the code on a config, with stand-ins for torchtitan's two classes."""
    body = "\n".join(line for line in code.splitlines() if not line.startswith("from torchtitan"))
    place: dict[str, Any] = {
        "default_adamw": lambda **values: values,
        "LRSchedulersContainer": SimpleNamespace(Config=lambda **values: values),
    }
    exec(body, place)
    return place["with_recipe"](SimpleNamespace(training=SimpleNamespace()))


def python_titan_rates(code: str, steps: int) -> list[float]:
    config = python_titan(code)
    assert config.training.steps == steps
    return titan_rates(config.optimizer["lr"], config.lr_scheduler, steps)


def arguments_of(code: str) -> Any:
    """Build the arguments: SFTConfig of TRL is a TrainingArguments."""
    from transformers import TrainingArguments

    body = code.replace("from trl import SFTConfig", "")
    place: dict[str, Any] = {"SFTConfig": TrainingArguments}
    exec(body, place)
    return place["arguments"]


def axolotl_arguments(code: str) -> Any:
    """Axolotl gives these fields to TrainingArguments, two of them under other names."""
    from transformers import TrainingArguments

    values = yaml.safe_load(code)
    renamed = {
        "lr_scheduler": "lr_scheduler_type",
        "optimizer": "optim",
        "micro_batch_size": "per_device_train_batch_size",
    }
    return TrainingArguments(**{renamed.get(name, name): v for name, v in values.items()})


def argument_rates(args: Any, steps: int) -> list[float]:
    """By the scheduler that the Trainer builds."""
    from transformers import get_scheduler

    assert args.max_steps == steps
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
    )
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


RATES = {
    "nanogpt": nanogpt_rates,
    "torchtitan-toml": toml_rates,
    "torchtitan": python_titan_rates,
    "transformers": lambda code, steps: argument_rates(arguments_of(code), steps),
    "unsloth": lambda code, steps: argument_rates(arguments_of(code), steps),
    "axolotl": lambda code, steps: argument_rates(axolotl_arguments(code), steps),
}
"""The rates that each program uses."""


WAYS_OUT = ("export it as 'torch'", "nearest=True", "give none, or at least 2")


def assert_same(target: str, recipe: Recipe, steps: int) -> bool:
    """Check that a program uses the recipe's rates; return whether it can express the recipe."""
    try:
        code = export_code(recipe, target, steps)
    except BadValueError as error:
        if not any(way in str(error) for way in WAYS_OUT):
            raise
        return False
    ours = recipe.lr * recipe.schedule.over(Clock(horizon=steps, steps_per_epoch=6))
    wanted = [ours(t) for t in range(steps)]
    assert RATES[target](code, steps) == pytest.approx(wanted, rel=1e-6, abs=1e-9 * max(wanted))
    return True


# ---- over the schedules --------------------------------------------------------------------------


@pytest.mark.parametrize("target", CURVES)
def test_every_program_with_curves_is_tested(target):
    assert target in RATES


@pytest.mark.parametrize("target", CURVES)
@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_of_every_kind_is_exact_or_refused(target, text):
    assert_same(target, Recipe(lr=3e-3, schedule=parse(text).over(CLOCK)), STEPS)


@st.composite
def ramps(draw: st.DrawFn) -> Schedule:
    """Schedules of a warmup, a constant part and a decay over 60 updates, each of them or not."""
    rising = draw(st.sampled_from([0, 1, 2, 5, 12]))
    hold = draw(st.sampled_from([0, 1, 9]))
    rest = STEPS - rising - hold
    floor = draw(st.sampled_from([0.0, 0.1, 0.5]))
    decay = draw(
        st.sampled_from(
            [
                cosine(rest, floor=floor),
                linear(rest, end=floor),
                polynomial(rest, end=floor, power=2.0),
                polynomial(rest, end=floor, k_decay=0.5),
                cosine(rest - 7, floor=floor),
                rsqrt(max(rising, 3)),
                constant(),
            ]
        )
    )
    shape = constant(length=hold) >> decay if hold else decay
    if rising:
        start = draw(st.sampled_from([0.0, 1 / (rising + 1), 0.3]))
        shape = warmup(rising, start=start) >> shape
    return shape if draw(st.booleans()) else 0.5 * shape


@pytest.mark.parametrize("target", CURVES)
def test_a_ramp_is_exact_or_refused(target):
    told = []

    @few
    @given(schedule=ramps(), lr=st.sampled_from([3e-3, 1e-5]))
    def check(schedule, lr):
        told.append(assert_same(target, Recipe(lr=lr, schedule=schedule), STEPS))

    check()
    assert any(told)
    assert not all(told)


EXACT = {
    "nanogpt": ["constant()", "warmup(9, start=0.1) >> cosine()", "cosine(40, floor=0.1)"],
    "torchtitan-toml": [
        "wsd(0, 12, shape='sqrt', floor=0.1)",
        "warmup(9, start=0.1) >> constant() >> linear(20)",
        "warmup(9, start=0.1) >> constant(length=1) >> cosine()",
        "constant()",
        "linear(100)",
    ],
    "transformers": [
        "constant()",
        "warmup(6) >> constant()",
        "warmup(6) >> linear()",
        "warmup(6) >> cosine()",
        "cosine(floor=0.1)",
        "warmup(6) >> polynomial(power=2.0, end=0.1)",
        "warmup(6) >> rsqrt(6)",
        "rsqrt(20)",
        "wsd(6, 12)",
        "warmup(6, start=0.2) >> constant(length=42) >> cosine(12, floor=0.2)",
        "wsd(0, 12, shape='cosine', floor=0.2)",
        "wsd(6, 12, shape='sqrt')",
        "linear(end=0.1)",
    ],
}
EXACT |= {"torchtitan": EXACT["torchtitan-toml"]}
EXACT |= dict.fromkeys(("axolotl", "unsloth"), EXACT["transformers"])


@pytest.mark.parametrize(
    ("target", "text"), [(name, text) for name, texts in EXACT.items() for text in texts]
)
def test_what_a_program_has_is_written(target, text):
    assert assert_same(target, Recipe(lr=3e-3, schedule=text), STEPS)


@pytest.mark.parametrize("target", ["nanogpt", "torchtitan", "torchtitan-toml"])
def test_the_message_on_a_schedule_gives_one_that_the_program_has(target):
    recipe = Recipe(lr=3e-3)
    with pytest.raises(BadValueError, match=r"Recipe\(schedule='(.*)'\)") as caught:
        export_code(recipe, target, STEPS)
    text = str(caught.value).split("schedule='")[1].split("'")[0]
    assert assert_same(target, recipe.replace(schedule=text), STEPS)


@pytest.mark.parametrize("target", ["nanogpt", "torchtitan", "torchtitan-toml", "transformers"])
def test_the_nearest_schedule_says_by_how_much_it_differs(target):
    recipe = Recipe(lr=3e-3, schedule="warmup(10, start=0.02) >> cosine()")
    code = export_code(recipe, target, STEPS, nearest=True)
    given = np.array(RATES[target](code, STEPS)) / recipe.lr
    wanted = recipe.schedule.over(STEPS)(np.arange(STEPS))
    apart = np.abs(given - wanted)
    told = f"differs by up to {apart.max():.2g} of the peak, at update {apart.argmax()}."
    assert f"# Not exact: the schedule of {target.removesuffix('-toml')}".lower() in code.lower()
    assert told in code


# ---- the rest of the recipe ----------------------------------------------------------------------


def test_the_arguments_hold_what_the_recipe_sets(monkeypatch):
    optimizer = {"name": "adamw", "betas": (0.9, 0.95), "eps": 1e-7, "weight_decay": 0.1}
    recipe = Recipe(
        optimizer=optimizer, lr=1e-3, clip_norm=0.5, accumulate=4, batch_size=8, seed=7,
        precision="bfloat16",
    )  # fmt: skip
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    for args in (
        arguments_of(export_code(recipe, "transformers", STEPS)),
        axolotl_arguments(export_code(recipe, "axolotl", STEPS)),
    ):
        assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (0.9, 0.95, 1e-7)
        assert (args.weight_decay, args.max_grad_norm, args.seed) == (0.1, 0.5, 7)
        assert (args.gradient_accumulation_steps, args.per_device_train_batch_size) == (4, 8)
        assert (args.bf16, args.fp16, args.optim) == (True, False, "adamw_torch")
    bare = arguments_of(export_code(Recipe(lr=1e-3), "transformers", STEPS))
    assert bare.max_grad_norm == 0.0  # the recipe does not clip


def test_nanogpt_and_torchtitan_hold_what_the_recipe_sets():
    optimizer = {"name": "adamw", "betas": (0.9, 0.95), "weight_decay": 0.1}
    recipe = Recipe(
        optimizer=optimizer, lr=1e-3, schedule="constant()", clip_norm=0.5, accumulate=4,
        batch_size=8, precision="bfloat16",
    )  # fmt: skip
    place: dict[str, Any] = {}
    exec(export_code(recipe, "nanogpt", STEPS), place)
    names = ("beta1", "beta2", "weight_decay", "grad_clip", "batch_size", "dtype")
    assert [place[n] for n in names] == [0.9, 0.95, 0.1, 0.5, 8, "bfloat16"]
    assert place["gradient_accumulation_steps"] == 4
    tables = tomllib.loads(export_code(recipe, "torchtitan-toml", STEPS))
    assert tables["optimizer"] == {
        "name": "AdamW", "lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1,
    }  # fmt: skip
    assert tables["training"]["max_norm"] == 0.5
    config = python_titan(export_code(recipe, "torchtitan", STEPS))
    assert config.optimizer == {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    assert config.training.max_norm == 0.5
    free = export_code(recipe.replace(clip_norm=None), "torchtitan", STEPS)
    assert python_titan(free).training.max_norm == math.inf


def test_axolotl_reads_small_numbers_as_numbers():
    values = yaml.safe_load(export_code(Recipe(lr=1e-5), "axolotl", STEPS))
    assert values["learning_rate"] == 1e-5
    assert isinstance(values["adam_epsilon"], float)


ONE_RATE = [name for name in TARGETS if name != "torch"]
X = torch.linspace(-1, 1, 16)[:, None]
GROUPED = etude.Task(
    lambda: torch.nn.Linear(1, 1),
    (X, 3 * X),
    loss=mse_loss,
    param_groups=lambda model: [{"params": [model.weight], "lr_mult": 0.5}],
)


@pytest.mark.parametrize("target", ONE_RATE)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr_mult": {"*bias": 2.0}}, r"lr_mult=\{'\*bias': 2.0\}: .* one rate for all parameters"),
        ({"schedules": {"weight_decay": "0.1 * cosine()"}}, r"schedules has weight_decay='0.1 \*"),
        ({"optimizer": "prodigy"}, r"optimizer='prodigy'.*export it as 'torch'"),
    ],
)
def test_what_a_program_cannot_express_is_refused(target, changes, said):
    recipe = Recipe(lr=1e-3, schedule="constant()").replace(**changes)
    with pytest.raises(BadValueError, match=said):
        export_code(recipe, target, STEPS)


@pytest.mark.parametrize("target", ONE_RATE)
def test_param_groups_of_a_task_are_refused(target):
    recipe = Recipe(lr=1e-3, schedule="constant()")
    with pytest.raises(BadValueError, match=r"the task has param_groups=.*<lambda>: .* leave"):
        export_code(recipe, target, STEPS, task=GROUPED)
    assert "param_groups(model)" in export_code(recipe, "torch", STEPS, task=GROUPED)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_applied_is_listed(target):
    recipe = Recipe(lr=1e-3, schedule="constant()", dropout=0.1, l2=1e-4, early_stopping=3)
    comment = export_code(recipe, target, STEPS).splitlines()[-1]
    assert comment.startswith("# The recipe also sets ")
    for told in ("dropout=0.1", "l2=0.0001", "early_stopping=3"):
        assert told in comment


def test_wrong_input_is_told_of():
    with pytest.raises(UnknownNameError, match=r"unknown target .*'optx'.* did you mean 'optax'"):
        export_code(Recipe(), "optx", STEPS)
    with pytest.raises(BadValueError, match=r"length is '20 epochs'.* give the number of updates"):
        export_code(Recipe(), "optax")
    with pytest.raises(BadValueError, match=r"steps=0 is out of bounds: give at least 1"):
        export_code(Recipe(), "optax", 0)
    with pytest.raises(BadTypeError, match=r"steps=1.5: give the number of updates"):
        export_code(Recipe(), "optax", 1.5)
    with pytest.raises(BadValueError, match=r"optax takes every schedule exactly: leave it out"):
        export_code(Recipe(), "optax", STEPS, nearest=True)
    with pytest.raises(BadValueError, match=r"batch_size='all': transformers takes a number"):
        export_code(Recipe(batch_size="all"), "transformers", STEPS)
    assert wsd(6, 12, length=STEPS).length == STEPS
