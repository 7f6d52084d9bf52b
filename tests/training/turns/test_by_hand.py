"""Parts that take turns: one optimizer does what one for each part would, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import softplus

from etude import Recipe, Task, train
from etude.engines.loop import LoopEngine
from etude.engines.process.engine import PoolEngine
from etude.engines.vmap.eligibility import why_not_stackable
from etude.errors import BadValueError
from etude.optimizers.factory import build
from etude.optimizers.table import ROWS
from etude.randomness import derive_seed, random_state_kept, seed_everything
from etude.tasks.metrics import mean_metric
from etude.tasks.sources.data import Cursor
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.training.state.state import RunState
from tests.training.turns.common import (
    BASE,
    SAMPLES,
    Gan,
    counting,
    gan,
    seldom,
    task,
    twice,
    weights,
)


def by_hand(step: Any, recipe: Recipe, make: Callable[[str, nn.Module], Any]) -> nn.Module:
    """The textbook loop: an optimizer for each part, each zeroed and stepped at its turn."""
    of = task(step)
    with random_state_kept():
        seed_everything(derive_seed(recipe.seed, "init"))
        model = Gan().train()
        seed_everything(derive_seed(recipe.seed, "noise"))
        parts = {name: make(name, part) for name, part in model.named_children()}
        shape = recipe.schedule.over(recipe.steps)
        rates = {name: [g["lr"] for g in o.param_groups] for name, o in parts.items()}
        batches = of.train.stream(recipe.batch_size, recipe.seed, Cursor())
        for t, batch in enumerate(islice(batches, recipe.steps)):
            for name, loss in step(model, batch):
                parts[name].zero_grad()
                loss.backward()
                for group, rate in zip(parts[name].param_groups, rates[name], strict=True):
                    group["lr"] = rate * shape(t)
                parts[name].step()
    return model


ABLE = [name for name, row in ROWS.items() if row.in_turns and not row.closure]


CASES = [(name, {}) for name in ABLE] + [
    ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
    ("adam", {"weight_decay": 0.1}),
    ("adamw", {"weight_decay": 0.5}),
    ("lars", {"momentum": 0.9, "weight_decay": 0.1}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hyper"), CASES)
@pytest.mark.parametrize("step", [gan, twice])
def test_it_is_the_textbook_loop_with_an_optimizer_for_each_part(name, hyper, step):
    recipe = BASE.replace(optimizer={"name": name, **hyper}, schedule="cosine()")
    record = train(task(step), recipe)
    model = by_hand(step, recipe, lambda _, part: build(name, part, lr=0.01, **hyper))
    assert record.status == "finished"
    # The same numbers, but a library may sum over tensors in another order.
    assert weights(record) == pytest.approx(weights(model), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if not row.in_turns])
def test_an_optimizer_that_cannot_is_refused_and_truly_cannot(name):
    with pytest.raises(BadValueError, match=rf"take turns, and {name} (remembers|evaluates)"):
        Run(task(), BASE.replace(optimizer=name))
    if ROWS[name].closure:
        return

    def trained(joint: bool) -> list[float]:
        with random_state_kept(0):
            model = Gan()
            one = build(name, model, lr=0.05)
            own = {n: one if joint else build(name, p, lr=0.05) for n, p in model.named_children()}
            for optimizer in own.values():
                getattr(optimizer, "train", lambda: None)()
            for _ in range(20):
                for part, loss in gan(model, (SAMPLES[:16],)):
                    own[part].zero_grad()
                    torch.autograd.backward(
                        loss, inputs=list(model.get_submodule(part).parameters())
                    )
                    own[part].step()
        return weights(model)

    assert trained(True) != pytest.approx(trained(False), rel=1e-5, abs=1e-7)


def test_rates_of_parts_are_multipliers():
    recipe = BASE.replace(lr_mult={"critic.*": 4.0, "*": 1.0})
    rates = {"critic": 0.04, "generator": 0.01}
    model = by_hand(
        gan, recipe, lambda name, part: torch.optim.Adam(part.parameters(), rates[name])
    )
    assert weights(train(task(), recipe)) == pytest.approx(weights(model), abs=1e-7)


def test_a_multiplier_that_follows_a_schedule_and_one_of_a_slice_are_kept():
    text = {"critic.*": "warmup(5) >> constant()", "generator.0.weight[0:2]": 0.0}
    run = Run(task(), BASE.replace(lr_mult=text))
    before = run.model.generator[0].weight[:2].tolist()
    run.advance()
    assert run.status == "finished"
    assert run.model.generator[0].weight[:2].tolist() == before


@settings(max_examples=10)
@given(count=st.integers(2, 4))
def test_accumulated_batches_equal_one_large_batch(count):
    def still(model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        noise = torch.cat([batch[0], batch[0][:, :1]], 1)
        fake = model.generator(noise)
        yield "critic", (softplus(-model.critic(batch[0])) + softplus(model.critic(fake))).mean()
        yield "generator", softplus(-model.critic(model.generator(noise))).mean()

    x = SAMPLES[: 24 * count]
    of = Task(Gan, (x,), valid=(x,), step=still)
    recipe = BASE.replace(optimizer="sgd", lr=0.1, steps=6, clip_norm=0.5, l2=0.01)
    big = train(of, recipe.replace(batch_size=6 * count))
    small = train(of, recipe.replace(batch_size=6, accumulate=count))
    assert weights(small) == pytest.approx(weights(big), abs=1e-5)
    for name, values in big.series.items():
        assert small.series[name].tolist() == pytest.approx(values.tolist(), abs=1e-5), name


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "momentum": 0.9, "weight_decay": 0.5},
        {"name": "adamw", "weight_decay": 0.5},
        "muon",
    ],
)
def test_a_part_without_a_turn_does_not_move(optimizer):
    moves = {"critic": [], "generator": []}
    seen: dict[str, list[float]] = {}

    def look(state: RunState) -> None:
        for part in moves:
            now = torch.cat([p.flatten() for p in state.model.get_submodule(part).parameters()])
            moves[part].append(part in seen and seen[part] != now.tolist())
            seen[part] = now.tolist()

    recipe = BASE.replace(optimizer=optimizer, steps=10)
    record = train(task(seldom, counting), recipe, on_step=look)
    assert moves["critic"][1:] == [True] * 9
    assert moves["generator"][1:] == [t % 3 == 2 for t in range(1, 10)]
    turns = record.series["loss/generator"]
    assert [math.isfinite(v) for v in turns] == [t % 3 == 2 for t in range(10)]


RESUMED = {
    "plain": (gan, Gan, {}),
    "percentile": (twice, Gan, {"clip_percentile": 60.0, "clip_value": 0.01}),
    "norm": (twice, counting, {"clip_norm": 0.1, "l2": 0.01, "accumulate": 2}),
    "seldom": (seldom, counting, {"clip_percentile": 60.0}),
    "bfloat16": (twice, counting, {"precision": "bfloat16", "clip_adaptive": 0.01}),
    "multipliers": (gan, Gan, {"lr_mult": {"critic.*": "warmup(9) >> constant()", "*": 1.0}}),
}


@pytest.mark.parametrize("name", RESUMED)
@settings(max_examples=4)
@given(at=st.integers(0, 20))
def test_resumed_equals_uninterrupted_to_the_bit(name, at):
    step, model, changes = RESUMED[name]
    recipe = BASE.replace(**changes)
    whole, first, second = (Run(task(step, model), recipe) for _ in range(3))
    whole.advance(AdvanceRequest(evaluation_steps=whole.state.evenly_spaced(4)))
    first.advance(AdvanceRequest(at, evaluation_steps=first.state.evenly_spaced(4)))
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(evaluation_steps=second.state.evenly_spaced(4)))
    assert weights(second) == weights(whole)
    assert list(second.series) == list(whole.series)
    for series, values in whole.series.items():
        assert second.series[series] == pytest.approx(values, abs=0, nan_ok=True), series
        assert len(values) == 20
    assert second.evaluations == whole.evaluations


def test_the_series_of_the_parts_add_up_to_the_loss():
    record = train(
        task(twice), BASE.replace(clip_norm=0.05, l2=0.1), probes={"t": lambda r: r.step}
    )
    assert set(record.series) == {
        *("loss", "lr", "penalty", "t"),
        *("loss/critic", "loss/generator", "grad_norm/critic", "grad_norm/generator"),
    }
    both = record.series["loss/critic"] + record.series["loss/generator"]
    assert record.series["loss"].tolist() == pytest.approx(both.tolist(), rel=1e-6)
    assert (record.series["loss/critic"] > record.series["loss/generator"]).all()  # two of them
    assert record.series["t"].tolist() == list(range(20))
    assert record.series["penalty"][0] > 0


def test_the_same_seed_gives_the_same_bits_and_another_others():
    one, again, other = (train(task(), BASE.replace(seed=s)) for s in (0, 0, 1))
    assert weights(one) == weights(again) != weights(other)


def test_the_penalty_pulls_only_on_the_part_whose_turn_it_is():
    def only(model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        yield "critic", model.critic(batch[0]).mean() * 0 + 1.0

    run = Run(task(only), BASE.replace(optimizer="sgd", lr=0.1, l2=1.0))
    before = weights(run.model.generator), run.model.critic[0].weight.norm()
    run.advance()
    assert weights(run.model.generator) == before[0]
    assert run.model.critic[0].weight.norm() < 0.5 * before[1]


@pytest.mark.slow
def test_a_gan_learns_and_its_metric_says_so():
    recipe = Recipe(
        optimizer={"name": "adam", "betas": [0.5, 0.99]}, lr=0.01, steps=300, batch_size=32
    )
    held = torch.randn(640, 2, generator=torch.Generator().manual_seed(2)) * 0.5 + 1.0
    record = train(task(valid=(held,)), recipe, evaluations=3)
    assert record.evaluations[-1].metric < 0.35 * record.evaluations[0].metric
    assert len(record.evaluations[-1].metric_parts) == len(record.evaluations[-1].parts)


def test_runs_with_turns_are_not_stacked_and_the_pool_gives_the_same_bits():
    of = task(twice, counting)
    recipes = [BASE.replace(lr=lr) for lr in (0.003, 0.01)]
    assert why_not_stackable(Run(of, BASE)) == "the step yields: parts of the model take turns"
    ours, theirs = ([Run(of, r) for r in recipes] for _ in range(2))
    for run in (*ours, *theirs):
        run.limit_threads(1)
    LoopEngine().advance(theirs)
    pool = PoolEngine(2)
    try:
        pool.advance(ours)
    finally:
        pool.close()
    for one, other in zip(ours, theirs, strict=True):
        assert weights(one) == weights(other)
        assert one.series == other.series


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_precision_and_accumulation_of_plain_steps_and_of_one_part(precision, accumulate):
    """A step with one part is a plain step."""

    def plain(model: Any, batch: Any) -> Tensor:
        return (model(batch["x"]) - batch["y"]).square().mean()

    def yielding(model: Any, batch: Any) -> Iterator[Any]:
        yield "0", plain(model, batch)

    x = SAMPLES
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)))
    recipe = BASE.replace(precision=precision, accumulate=accumulate, clip_norm=0.1, l2=0.01)
    data = {"x": x, "y": x[:, :1]}
    error = mean_metric("error", plain)
    one, other = (train(Task(model, data, step=s, metric=error), recipe) for s in (plain, yielding))
    assert weights(one) == weights(other)
    assert one.series["loss"].tolist() == other.series["loss/0"].tolist()
    assert one.series["grad_norm"].tolist() == other.series["grad_norm/0"].tolist()
    assert one.series["penalty"].tolist() == other.series["penalty"].tolist()
    # A step that yields several losses has no one weight: its slices count by their samples.
    assert [replace(e, weight=None) for e in one.evaluations] == list(other.evaluations)
    assert one.evaluations[-1].metric == pytest.approx(one.valid_loss, rel=1e-2)
