"""What the torch adapter refuses and warns of: bounds, rates that are lost, metrics that differ."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etude import optimizers
from etude.errors import BadValueError, EtudeError
from etude.interop.optax import to_optax
from etude.interop.torch import Scheduler, relative
from etude.optimizers.bounds import bounds_of
from etude.optimizers.factory import build
from etude.recipe import Recipe
from etude.schedules import Clock, constant, cosine, exponential, linear, parse, plateau, warmup
from tests.interop.peers import adamw, few, sgd

VALUES = (-1.0, -1e-9, 0.0, 1e-9, 0.5, 0.999, 1.0, 1.5)


def weight(*shape: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(*(shape or (2, 2))))]


def refused(make) -> bool:
    try:
        make()
    except EtudeError:
        return True
    return False


ROWS = [row for row in optimizers.ROWS.values() if row.installed]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_it_refuses_what_a_recipe_refuses(row):
    """For every optimizer, every value that may follow a schedule, and bounds from both sides."""
    names = [n for n in (*row.hyperparameters, "momentum", "beta2") if row.scheduled(n)]
    optimizer = build(row.name, weight())
    for name in dict.fromkeys(names):
        for value in VALUES:
            schedule = constant(value, length=10)
            recipe = Recipe(optimizer=row.name, schedules={name: schedule})
            by_recipe = refused(lambda r=recipe: r.bound_schedules(Clock(horizon=10)))
            by_scheduler = refused(lambda n=name, s=schedule: Scheduler(optimizer, **{n: s}))
            at_the_limit = value == row.scheduled(name).high  # a schedule may end there
            assert by_recipe == by_scheduler, (name, value, at_the_limit)


@pytest.mark.parametrize("name", ["lr", "weight_decay", "momentum", "dampening"])
def test_it_refuses_the_step_that_leaves_the_bounds_and_stays_where_it_was(name):
    optimizer = sgd()
    endless = 0.05 - 0.1 * (1.0 - exponential(0.5))  # 0.05, 0, -0.025, ...
    scheduler = Scheduler(optimizer, **{name: endless})
    scheduler.step()
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    with pytest.raises(BadValueError, match=rf"{name} would be -0.025 at step 2: it must be at le"):
        scheduler.step()
    after = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert (before, scheduler.last_epoch) == (after, 1)
    with pytest.raises(BadValueError, match=r"would be -0\.05 at step 900"):
        scheduler.seek(900)
    assert scheduler.last_epoch == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scheduler(adamw(), momentum="linear(10, 0.9, 1.2)"), r"momentum.* in \[0, 1\)"),
        (lambda: Scheduler(adamw(), beta2="linear(10, 0.9, 1.2)"), r"beta2.* in \[0, 1\)"),
        (lambda: Scheduler(adamw(), lr="linear(10, 0.1, -0.1)"), "lr .*give a number >= 0"),
        (lambda: Scheduler(adamw(), eps=linear(4, -1.0)), "eps .*give a number >= 0"),
        (lambda: Scheduler(adamw(), weight_decay=relative(linear(9, 1, -1))), "weight_decay .*0"),
        (lambda: Scheduler(sgd(), scale=linear(9, 1, -1)), "lr .*give a number >= 0"),
        (
            lambda: Scheduler(sgd(nesterov=True), dampening=constant(0.5, length=3)),
            "dampening .*give a number of 0",
        ),
    ],
)
def test_it_refuses_at_construction_what_is_known_by_then(make, message):
    with pytest.raises(BadValueError, match=message):
        make()


def test_what_is_read_once_is_not_moved():
    optimizer = torch.optim.Adagrad(weight())
    with pytest.raises(
        BadValueError, match="initial_accumulator_value: adagrad cannot change it d"
    ):
        Scheduler(optimizer, initial_accumulator_value=constant(0.5))


class Own(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, momentum=0.5, weight_decay=0.1, temperature=-3.0):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "temperature": temperature,
            },
        )


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("lr", [0.0, 5.0], [-0.1]),
        ("momentum", [0.0, 0.99], [1.0, -0.1]),
        ("weight_decay", [0.0, 7.0], [-0.1]),
        ("temperature", [-9.0, 9.0], []),
    ],
)
def test_an_optimizer_that_is_not_in_the_table_has_general_bounds(name, good, bad):
    for value in good:
        Scheduler(Own(weight()), **{name: constant(value, length=4)})
    for value in bad:
        with pytest.raises(BadValueError, match=f"{name} of group 0 at step 0"):
            Scheduler(Own(weight()), **{name: constant(value, length=4)})
    with pytest.raises(BadValueError, match="temperature=nan is out of bounds"):
        bounds_of("temperature", None, {}).check("temperature", math.nan)


def test_what_ends_at_a_limit_that_no_update_meets_is_allowed():
    optimizer = sgd()
    scheduler = Scheduler(optimizer, momentum=linear(4, 0.5, 1.0))
    Recipe(optimizer="sgd", schedules={"momentum": "linear(4, 0.5, 1.0)"}).bound_schedules(
        Clock(horizon=4)
    )
    for _ in range(4):
        scheduler.step()  # after the last update of a run of 4 it stands at step 4
    with pytest.raises(BadValueError, match="would be 1 at step 5: it must be at least 0 and bel"):
        scheduler.step()


def test_a_state_that_leaves_the_bounds_is_refused_where_it_does():
    state = Scheduler(sgd(), momentum=constant(0.5)).state_dict()
    state["schedules"]["momentum"] = {"*": "constant(1.5)"}
    scheduler = Scheduler(sgd(), momentum=constant(0.5))
    with pytest.raises(BadValueError, match=r"momentum would be 1\.5 at step 0"):
        scheduler.load_state_dict(state, on_difference="replace")


@few
@given(start=st.floats(-0.5, 1.5), end=st.floats(-0.5, 1.5), length=st.integers(1, 60))
def test_no_step_ever_writes_a_value_out_of_bounds(start, end, length):
    optimizer = adamw()
    try:
        scheduler = Scheduler(optimizer, beta1=linear(length, start, end))
        for _ in range(length + 2):
            scheduler.step()
    except BadValueError:
        inside = all(0 <= linear(length, start, end)(t) < 1 for t in range(length + 2))
        assert not inside
    assert 0 <= optimizer.param_groups[0]["betas"][0] <= 1


# ---- a rate that a recipe would not take ----------------------------------------------------


def test_a_recipe_refuses_a_negative_rate_before_training():
    with pytest.raises(BadValueError, match=r"schedule at update 6=-0\.19.* >= 0"):
        Recipe(schedule="linear(10, 1, -1)", steps=10).bound_schedule(Clock(horizon=10))
    assert Recipe(schedule="cosine()").bound_schedule(Clock(horizon=10)) == cosine(10)


@given(at=st.integers(1, 29_998), high=st.sampled_from([-0.1, 1.0, 1.5]))
@settings(max_examples=10, deadline=None)
def test_a_recipe_refuses_one_update_of_a_long_run(at, high):
    spike = f"piecewise_constant(({at}, {at + 1}), (0.5, {high}, 0.5))"
    recipe = Recipe(optimizer="sgd", schedules={"momentum": spike}, steps=30_000)
    with pytest.raises(BadValueError, match=rf"schedules\['momentum'\] at update {at}={high}"):
        recipe.bound_schedules(Clock(horizon=30_000))
    if high < 0:
        with pytest.raises(BadValueError, match=rf"schedule at update {at}={high}"):
            Recipe(schedule=spike, steps=30_000).bound_schedule(Clock(horizon=30_000))
        with pytest.raises(BadValueError, match=rf"lr at step {at}={high} .*\.clip it|to_optax"):
            to_optax(f"{spike}.take(30_000)")


# ---- values that groups were given ----------------------------------------------------------


def said(make) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    assert all(w.filename == __file__ for w in caught)
    return [str(w.message) for w in caught]


def test_a_rate_that_makes_groups_equal_is_warned_of_with_the_ways_out():
    (one,) = said(lambda: Scheduler(sgd(0.1, 0.01), lr=0.1 * cosine(9)))
    assert "lr sets all groups to the same value, but they had 0.1, 0.01" in one
    assert "scale=..." in one
    assert "lr={'*': ...}" in one
    decayed = {"params": weight(), "weight_decay": 0.2}
    optimizer = torch.optim.AdamW([decayed, {"params": weight(), "weight_decay": 0.0}])
    (other,) = said(lambda: Scheduler(optimizer, weight_decay=constant(0.1)))
    assert "weight_decay sets all groups to the same value, but they had 0.2, 0" in other
    assert "weight_decay=relative(...)" in other


def test_a_factor_given_as_a_rate_is_warned_of_with_the_ways_out():
    for shape in (cosine(100), warmup(5) >> cosine(95), "step(30, 0.1)", plateau()):
        (one,) = said(lambda s=shape: Scheduler(sgd(0.1), s))
        assert "whose peak is 1: it replaces the optimizer's rate 0.1 by a rate of 1" in one
        assert "scale=..." in one
        assert "lr=0.1 * (...)" in one


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scheduler(sgd(0.1, 0.1), lr=0.1 * cosine(9)),
        lambda: Scheduler(sgd(0.1, 0.01), scale=cosine(9)),
        lambda: Scheduler(sgd(0.1, 0.01), lr={"*": cosine(9)}),
        lambda: Scheduler(sgd(0.1, 0.01), lr=[0.1 * cosine(9), 0.01 * cosine(9)]),
        lambda: Scheduler(sgd(0.1, 0.01), lr=relative(cosine(9))),
        lambda: Scheduler(sgd(1.0), cosine(9)),
        lambda: Scheduler(sgd(0.1), lr=0.5 * cosine(9)),
    ],
)
def test_what_is_said_plainly_is_not_warned_of(make):
    assert said(make) == []


# ---- one metric -----------------------------------------------------------------------------


def test_one_step_reports_one_metric():
    with pytest.raises(
        BadValueError, match=r"different signals \(loss and metric\), and step\(met"
    ):
        Scheduler(sgd(), lr=0.1 * plateau(), momentum=0.9 * plateau(mode="max"))
    optimizer = sgd()
    Scheduler(optimizer, lr=0.1 * plateau())
    Scheduler(optimizer, momentum=0.9 * plateau(mode="max"))
    scheduler = Scheduler(optimizer, lr=[0.1 * plateau()])
    with pytest.raises(BadValueError, match="loss and metric"):
        scheduler.add_param_group({"params": weight()}, lr=0.1 * plateau(mode="max"))
    assert len(optimizer.param_groups) == 1


# ---- the adapter is the pure function -------------------------------------------------------

SHAPES = st.sampled_from(
    [
        "0.3 * (warmup(7) >> cosine(40, floor=0.1))",
        "0.2 * step(9, 0.5)",
        "(0.1 * cosine(10)).repeat(3)",
        "0.4 * restarts(6, length_mult=2.0)",
        "constant(0.25)",
        "0.5 * exponential(0.9)",
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=3),
    tensor=st.sampled_from([None, torch.float32, torch.float64, torch.bfloat16]),
    shared=st.booleans(),
    steps=st.lists(st.integers(0, 90), min_size=1, max_size=6),
)
def test_every_group_has_what_its_schedule_says(shapes, tensor, shared, steps):
    one = None if tensor is None else torch.tensor(0.7, dtype=tensor)
    rate = 0.7 if one is None else one
    groups = [{"params": weight()} for _ in shapes]
    if not shared and one is not None:
        groups = [{**group, "lr": one.clone()} for group in groups]
    optimizer = torch.optim.SGD(groups, lr=rate)
    scheduler = Scheduler(optimizer, lr=shapes)
    for t in steps:
        scheduler.seek(t)
        expected = [parse(text)(t) for text in shapes]
        assert scheduler.get_last_lr() == expected
        for group, value in zip(optimizer.param_groups, expected, strict=True):
            if one is None:
                assert group["lr"] == value
            else:
                assert group["lr"].dtype == tensor
                assert group["lr"] == torch.tensor(value, dtype=tensor)
    assert float(optimizer.defaults["lr"]) == float(rate if one is None else torch.tensor(
        0.7, dtype=tensor))  # fmt: skip
