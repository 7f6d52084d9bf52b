"""The plain loop: what a Recipe says, written out by hand, to the bit."""

from __future__ import annotations

import contextlib
import math
import random
import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Recipe, Record, Task, train
from etude.errors import BadValueError, MovedError, TaskError
from etude.randomness import derive_seed, random_state_kept, seed_everything
from etude.schedules import Clock, parse
from etude.tasks.metrics import mean_metric
from etude.tasks.sources.data import Cursor
from etude.training.evaluation.evaluate import evaluate
from etude.training.run import MOVED, Run
from etude.training.state.state import RunState
from tests.helpers import data, mlp, noisy, task

BASE = Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=0.1, steps=25, batch_size=16)


def weights(record: Record | nn.Module) -> list[float]:
    model = record if isinstance(record, nn.Module) else record.model
    return torch.cat([v.flatten().double() for v in model.state_dict().values()]).tolist()


def by_hand(
    of: Task,
    recipe: Recipe,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    before_step: Callable[[Any, int], None] = lambda optimizer, step: None,
) -> tuple[nn.Module, list[float]]:
    """The textbook loop, with nothing of ours but the seeds and the order of the data."""
    with random_state_kept():
        seed_everything(derive_seed(recipe.seed, "init"))
        model = of.model().train()
        seed_everything(derive_seed(recipe.seed, "noise"))
        updater = optimizer(model.parameters())
        shape = recipe.schedule.over(recipe.steps)
        batches = of.train.stream(recipe.batch_size, recipe.seed, Cursor())
        losses = []
        for step in range(recipe.steps):
            updater.zero_grad()
            total = 0.0
            for inputs, targets in islice(batches, recipe.accumulate):
                loss = cross_entropy(model(inputs), targets) / recipe.accumulate
                loss.backward()
                total += loss.item()
            losses.append(total)
            for group in updater.param_groups:
                group["lr"] = recipe.lr * shape(step)
            before_step(updater, step)
            updater.step()
    return model, losses


def clip_norm(optimizer: Any, step: int) -> None:
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.05)


def clip_value(optimizer: Any, step: int) -> None:
    nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], 0.01)


def momentum(optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["momentum"] = 0.9 - 0.5 * step / 25


def betas(optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["betas"] = (0.5 + 0.01 * step, 0.999)


def decay(optimizer: Any, step: int) -> None:
    optimizer.param_groups[0]["weight_decay"] = 0.5 * (1 - step / 25)


OPTIM = torch.optim
SGD = {"name": "sgd", "momentum": 0.9}
CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "sgd": ({}, lambda p: OPTIM.SGD(p, momentum=0.9), None),
    "decay": (
        {"optimizer": {**SGD, "weight_decay": 0.1}},
        lambda p: OPTIM.SGD(p, momentum=0.9, weight_decay=0.1),
        None,
    ),
    "adamw": ({"optimizer": "adamw"}, lambda p: OPTIM.AdamW(p), None),
    "constant": ({"schedule": "constant()"}, lambda p: OPTIM.SGD(p, momentum=0.9), None),
    "seed": ({"seed": 7}, lambda p: OPTIM.SGD(p, momentum=0.9), None),
    "clip norm": ({"clip_norm": 0.05}, lambda p: OPTIM.SGD(p, momentum=0.9), clip_norm),
    "clip value": ({"clip_value": 0.01}, lambda p: OPTIM.SGD(p, momentum=0.9), clip_value),
    "momentum": (
        {"schedules": {"momentum": "0.9 - 0.5 * (1.0 - linear())"}},
        lambda p: OPTIM.SGD(p, momentum=0.9),
        momentum,
    ),
    "betas": (
        {"optimizer": "adamw", "schedules": {"momentum": "0.5 + 0.25 * warmup(25)"}},
        lambda p: OPTIM.AdamW(p),
        betas,
    ),
    "decay schedule": (
        {"optimizer": "adamw", "schedules": {"weight_decay": "0.5 * linear()"}},
        lambda p: OPTIM.AdamW(p),
        decay,
    ),
    "accumulate": ({"accumulate": 3, "batch_size": 8}, lambda p: OPTIM.SGD(p, momentum=0.9), None),
}


@pytest.mark.parametrize("model", [mlp, noisy])
@pytest.mark.parametrize("name", CASES)
def test_the_loop_is_the_textbook_loop(name, model):
    changes, optimizer, before_step = CASES[name]
    recipe = BASE.replace(**changes)
    record = train(task(model), recipe)
    network, losses = by_hand(task(model), recipe, optimizer, before_step or (lambda o, s: None))
    if name in ("momentum", "betas", "decay schedule"):  # the same numbers in another order
        assert record.series["loss"].tolist() == pytest.approx(losses, abs=1e-6)
        assert weights(record) == pytest.approx(weights(network), abs=1e-5)
    else:
        assert weights(record) == weights(network)
        assert record.series["loss"].tolist() == pytest.approx(losses, rel=1e-6)


def test_accumulated_batches_equal_one_large_batch():
    big = train(task(), BASE.replace(batch_size=32, clip_norm=1.0))
    small = train(task(), BASE.replace(batch_size=8, accumulate=4, clip_norm=1.0))
    # 64 samples are two batches of 32 or eight of 8 an epoch: the same groups either way.
    assert weights(small) == pytest.approx(weights(big), abs=1e-5)
    assert small.series["loss"].tolist() == pytest.approx(big.series["loss"].tolist(), abs=1e-6)
    assert small.cost.gradients == big.cost.gradients == 25 * 32


@settings(max_examples=15)
@given(
    lr=st.floats(1e-5, 1.0),
    steps=st.integers(1, 40),
    text=st.sampled_from(
        ["constant()", "warmup('20%') >> cosine()", "linear('1 epochs') >> constant(0.1)"]
    ),
)
def test_the_rate_is_lr_times_the_shape(lr, steps, text):
    record = train(task(), BASE.replace(lr=lr, steps=steps, schedule=text), evaluations=1)
    shape = parse(text).over(Clock(horizon=steps, steps_per_epoch=4))
    assert record.series["lr"].tolist() == [lr * shape(t) for t in range(steps)]


@pytest.mark.parametrize("model", [mlp, noisy])
def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(model):
    one, again = train(task(model), BASE), train(task(model), BASE)
    other = train(task(model), BASE.replace(seed=1))
    assert weights(one) == weights(again)
    assert one.evaluations == again.evaluations
    assert {n: s.tolist() for n, s in one.series.items()} == {
        n: s.tolist() for n, s in again.series.items()
    }
    assert weights(one) != weights(other)
    assert one.series["loss"][0] != other.series["loss"][0]


def test_a_network_given_as_such_keeps_its_weights_and_another_seed_moves_the_order():
    network = mlp()
    one = train(task(network), BASE.replace(steps=1))
    other = train(task(network), BASE.replace(steps=1, seed=1))
    assert one.evaluations[0] == other.evaluations[0]
    assert one.series["loss"][0] != other.series["loss"][0]


def test_dropout_draws_from_the_recipes_seed_alone():
    def dropping() -> nn.Module:
        torch.manual_seed(0)  # the same weights for every seed
        return nn.Sequential(nn.Dropout(0.5), mlp())

    full = Recipe(optimizer="sgd", lr=0.1, steps=3, batch_size=64)
    losses = [
        train(task(dropping), full.replace(seed=seed)).series["loss"].tolist() for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert len(set(losses[0])) == 3


@pytest.mark.parametrize("model", [mlp, noisy])
def test_looking_does_not_change_the_training(model):
    seldom, often = (train(task(model), BASE, evaluations=n) for n in (1, 25))
    assert weights(seldom) == weights(often)
    assert seldom.series["loss"].tolist() == often.series["loss"].tolist()
    assert [e.step for e in seldom.evaluations] == [0, 25]
    assert [e.step for e in often.evaluations] == list(range(26))
    assert seldom.evaluations[-1] == often.evaluations[-1]


def test_pausing_does_not_change_the_training():
    whole, paused = (Run(task(noisy), BASE) for _ in range(2))
    whole.advance()
    for until in (1, 2, 9, 9, 24, 25, 99):
        paused.advance(until)
        torch.rand(3)
        assert paused.step == min(until, 25)
    assert paused.status == whole.status == "finished"
    assert weights(paused.model) == weights(whole.model)


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002


def test_what_the_user_gave_is_left_as_it_was():
    network = noisy()
    network[1].eval()  # a mode of the user's own
    network[0].weight.grad = torch.ones_like(network[0].weight)
    before = weights(network)
    modes = [module.training for module in network.modules()]
    with random_state_kept(11):
        expected = draws()
    with random_state_kept(11):
        record = train(task(network), BASE)
        assert draws() == expected
    assert weights(network) == before
    assert [module.training for module in network.modules()] == modes
    assert network[0].weight.grad.tolist() == torch.ones(12, 6).tolist()
    assert network[4].weight.grad is None
    assert record.model is not network
    assert weights(record) != before


def test_the_number_of_threads_is_the_callers_and_changes_no_bit():
    before = torch.get_num_threads()
    records = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            records.append(train(task(noisy), BASE))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert weights(records[0]) == weights(records[1])


def test_a_function_that_hands_out_one_network_has_it_copied():
    network = mlp()
    before = weights(network)
    one, again = (train(task(lambda: network), BASE) for _ in range(2))
    assert weights(network) == before
    assert weights(one) == weights(again) != before


def test_frozen_parameters_stay():
    def frozen() -> nn.Module:
        model = mlp()
        model[0].weight.requires_grad_(False)
        return model

    run = Run(task(frozen), BASE)
    before = run.model[0].weight.tolist(), run.model[2].weight.tolist()
    run.advance()
    assert run.model[0].weight.tolist() == before[0]
    assert run.model[2].weight.tolist() != before[1]


def test_bfloat16_runs_and_differs():
    single, half = (train(task(), BASE.replace(precision=p)) for p in ("float32", "bfloat16"))
    assert half.status == "finished"
    assert half.model[0].weight.dtype == torch.float32
    assert weights(single) != weights(half)
    assert half.valid_loss == pytest.approx(single.valid_loss, abs=0.1)
    assert single.evaluations[0].loss != half.evaluations[0].loss


def test_named_functions_are_recorded_before_the_update():
    seen: list[int] = []

    def first_gradient(state: RunState) -> Tensor:
        seen.append(state.step)
        return state.model[0].weight.grad.norm()

    record = train(task(), BASE, probes={"first": first_gradient, "rate": lambda r: r.step * 2.0})
    assert seen == list(range(25))
    assert record.series["rate"].tolist() == [2.0 * t for t in range(25)]
    assert len(set(record.series["first"].tolist())) == 25
    assert weights(record) == weights(train(task(), BASE))


@pytest.mark.parametrize("name", ["loss", "lr", "grad_norm", "valid_parts", "loss/critic"])
def test_a_function_may_not_take_the_records_own_names(name):
    with pytest.raises(
        BadValueError, match=f"observer '{name}': the record already has a series of that"
    ):
        train(task(), BASE, probes={name: lambda state: 0.0})


def test_the_gradients_norm_is_recorded_where_it_is_clipped():
    record = train(task(), BASE.replace(clip_norm=0.05))
    norms = record.series["grad_norm"]
    assert len(norms) == 25
    assert norms.min() > 0
    assert "grad_norm" not in train(task(), BASE).series


def test_the_record_says_what_happened():
    record = train(task(name="mine"), BASE, evaluations=5)
    assert (record.task, record.status, record.reason) == ("mine", "finished", "")
    assert (record.length, record.metric) == (25, "accuracy")
    assert record.recipe == BASE.replace(evaluations=5)
    assert (record.cost.steps, record.cost.gradients) == (25, 25 * 16)
    assert record.cost.seconds > 0
    assert [e.step for e in record.evaluations] == [0, 5, 10, 15, 20, 25]
    assert record.valid_loss == record.evaluations[-1].loss
    assert record.valid_metric == record.evaluations[-1].metric
    last = evaluate(task(), record.model, step=25, batch_size=128)
    assert last == record.evaluations[-1]
    assert record.environment["torch"] == torch.__version__
    assert record.environment["device"] == "cpu"


def test_lengths_in_epochs_and_samples():
    for steps, expected in (("3 epochs", 12), ("160 samples", 10)):
        record = train(task(), BASE.replace(steps=steps), evaluations=1)
        assert record.length == record.cost.steps == expected
    record = train(task(), BASE.replace(steps="3 epochs", accumulate=2), evaluations=1)
    assert record.length == 6


def test_a_step_of_the_users_own():
    def step(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model(batch["x"]), batch["y"])

    x, y = data()
    named = Task(mlp, {"x": x, "y": y}, step=step)
    assert weights(train(named, BASE)) == weights(train(task(), BASE))
    with pytest.raises(TaskError, match=r"metric='accuracy' needs the model's output, .*give a fu"):
        Task(mlp, {"x": x, "y": y}, step=step, metric="accuracy")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_metric_of_a_step_is_that_of_the_same_task_with_a_loss(precision):
    def step(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model(batch["x"]), batch["y"])

    def right(model: nn.Module, batch: Any) -> Tensor:
        assert not model.training
        return (model(batch["x"]).argmax(1) == batch["y"]).double().mean()

    x, y = data(90)  # 18 rows in slices of two and a slice of their own
    of_step = Task(
        noisy, {"x": x, "y": y}, step=step, metric=mean_metric("right", right, maximize=True)
    )
    of_loss = Task(noisy, (x, y), loss=cross_entropy, metric="accuracy")
    recipe = BASE.replace(precision=precision)
    ours, theirs = train(of_step, recipe), train(of_loss, recipe)
    assert weights(ours) == weights(theirs)
    for one, other in zip(ours.evaluations, theirs.evaluations, strict=True):
        assert one.metric == pytest.approx(other.metric)
        assert one.metric_parts == pytest.approx(other.metric_parts)
    assert ours.metric == "right"


# ---- evaluation --------------------------------------------------------------------------


@settings(max_examples=20)
@given(size=st.integers(1, 100), count=st.integers(1, 70))
def test_an_evaluation_does_not_depend_on_the_batch_size(size, count):
    x, y = data(80)
    of = Task(mlp, (x, y), valid=(x[:count], y[:count]), loss=cross_entropy, metric="accuracy")
    with random_state_kept(0):
        model = mlp()
    result = evaluate(of, model, batch_size=size)
    with torch.no_grad():
        output = model(x[:count])
    assert result.loss == pytest.approx(float(cross_entropy(output, y[:count])), abs=1e-6)
    right = (output.argmax(1) == y[:count]).double().mean()
    assert result.metric == pytest.approx(float(right))
    assert len(result.parts) >= min(16, count) / 2


def test_an_evaluation_restores_every_modules_mode():
    model = noisy()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    before = weights(model)
    assert evaluate(task(noisy), model) == evaluate(task(noisy), model)
    assert [m.training for m in model.modules()] == modes
    assert weights(model) == before
    with contextlib.suppress(RuntimeError):
        evaluate(Task(noisy, data(), loss=lambda o, t: 1 / 0), model)
    assert [m.training for m in model.modules()] == modes


def test_the_slices_of_a_loss_average_to_it():
    record = train(Task(nn.Linear(6, 1), (data()[0], torch.zeros(80, 1)), loss=mse_loss), BASE)
    for evaluation in record.evaluations:
        assert evaluation.loss == pytest.approx(math.fsum(evaluation.parts) / 16)
        assert len(evaluation.parts) == 16


@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
@settings(max_examples=10)
@given(count=st.integers(1, 70))
def test_the_slices_of_a_metric_are_the_metric_of_the_slices(metric, count):
    x, y = data(80)
    of = Task(mlp, (x, y), valid=(x[:count], y[:count]), loss=cross_entropy, metric=metric)
    with random_state_kept(0):
        model = mlp()
    result = evaluate(of, model)
    size = math.ceil(count / 16)
    slices = [
        evaluate(Task(mlp, (x, y), valid=part, loss=cross_entropy, metric=metric), model).metric
        for part in zip(x[:count].split(size), y[:count].split(size), strict=True)
    ]
    assert result.metric_parts == pytest.approx(slices)
    assert len(result.metric_parts) == len(result.parts)


def test_a_slice_without_an_answer_has_no_metric_and_the_rest_has():
    x, y = data(32)
    y = torch.where(torch.arange(32) < 2, -100, y)
    result = evaluate(Task(mlp, (x, y), valid=(x, y), loss=cross_entropy, metric="accuracy"), mlp())
    assert math.isnan(result.metric_parts[0])
    assert all(math.isfinite(part) for part in result.metric_parts[1:])
    assert 0 <= result.metric <= 1


def test_without_a_metric_there_are_no_parts_of_one():
    record = train(Task(mlp, data(), loss=cross_entropy), BASE)
    assert {e.metric_parts for e in record.evaluations} == {()}
    assert "valid_metric_parts" not in record.arrays()


def test_an_old_name_of_a_run_says_the_new_one():
    run = Run(task(), BASE)
    for name, new in MOVED.items():
        with pytest.raises(MovedError, match=re.escape(f"Run.{name} is now {new}")):
            getattr(run, name)
    assert not hasattr(run, "never_there")
