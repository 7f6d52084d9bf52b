"""Range tests: the same ramps and suggestions as the libraries, and nothing else changes."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader

import etude
from etude import Recipe, Task
from etude.errors import BadTypeError, BadValueError, TaskError, UnknownNameError
from etude.methods import ramp_rules
from etude.methods.ramp import FASTAI, LIGHTNING, LR_FINDER, Ramp, run_ramp
from etude.methods.ramp_rules import RULES, TUNER
from etude.methods.range_test import range_test
from tests.helpers import data, mlp, task

PAGE = Path(__file__).parents[2] / "benchmarks" / "results" / "regret.md"
SGD = {"name": "sgd", "momentum": 0.9}
RECIPE = Recipe(optimizer=SGD, batch_size=16, steps=400, schedule="constant()")


def batches(given: Task, count: int, seed: int = 0) -> list:
    from etude.tasks.sources.data import Cursor

    stream = given.train.stream(16, seed, Cursor())
    return [next(stream) for _ in range(count)]


def start(given: Task, recipe: Recipe) -> nn.Module:
    """The network as a run of the recipe begins with it."""
    from etude.training.run import Run

    return Run(given, recipe).model


# ---- parity -------------------------------------------------------------------------------------


@pytest.fixture
def quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("updates", [40, 100])
@pytest.mark.usefixtures("quiet")
def test_lightning_gives_the_same_curve_and_suggestion(tmp_path, updates):
    import lightning.pytorch as pl
    from lightning.pytorch.tuner.tuning import Tuner

    whole = task()
    found = range_test(whole, RECIPE, rule="lightning", updates=updates, repeats=1, progress=False)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.lr = start(whole, RECIPE), 0.1

        def training_step(self, batch, _):
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.model.parameters(), lr=self.lr, momentum=0.9)

    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1_000, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    loader = DataLoader(batches(whole, updates), batch_size=None)
    theirs = Tuner(trainer).lr_find(Module(), loader, num_training=updates)
    (ramp,) = found.ramps
    count = len(ramp.lrs)
    assert ramp.lrs == pytest.approx(theirs.results["lr"][:count], rel=1e-9)
    assert ramp.smoothed == pytest.approx(theirs.results["loss"][:count], rel=1e-4)
    assert found.lr == pytest.approx(theirs.suggestion(), rel=1e-9)


@pytest.mark.usefixtures("quiet")
def test_lr_finder_gives_the_same_curve_and_suggestion():
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from torch_lr_finder import LRFinder

    whole = task()
    found = range_test(whole, RECIPE, rule="lr-finder", repeats=1, progress=False)
    model = start(whole, RECIPE)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7, momentum=0.9)
    finder = LRFinder(model, optimizer, cross_entropy, device="cpu")
    finder.range_test(DataLoader(batches(whole, 100), batch_size=None), end_lr=100, num_iter=100)
    _, lr = finder.plot(ax=pyplot.subplots()[1])
    pyplot.close("all")
    (ramp,) = found.ramps
    assert ramp.lrs == pytest.approx(finder.history["lr"], rel=1e-9)
    assert ramp.smoothed == pytest.approx(finder.history["loss"], rel=1e-4)
    assert found.lr == pytest.approx(lr, rel=1e-9)


@given(st.integers(30, 300), st.data())
def test_the_rate_follows_its_formula(updates, given):
    for plan in (FASTAI, LIGHTNING, LR_FINDER):
        t = given.draw(st.integers(0, updates - 1))
        ahead = plan.late if t else 0
        place = (t + ahead) / (updates - plan.fewer)
        wanted = plan.low * (plan.high / plan.low) ** place
        assert plan.low * plan.schedule(updates)(t) == pytest.approx(wanted, rel=1e-9)


# ---- rules --------------------------------------------------------------------------------------


def longest_fall(losses: list[float]) -> tuple[int, int]:
    """Return end and length of the longest falling subsequence, the first end among equals."""
    lengths = [1] * len(losses)
    for i in range(len(losses)):
        lengths[i] += max((lengths[j] for j in range(i) if losses[i] < losses[j]), default=0)
    return lengths.index(max(lengths)), max(lengths)


LOSSES = st.lists(st.floats(0, 9), min_size=4, max_size=60, unique=True)


@given(LOSSES)
def test_the_valley_is_the_longest_fall(losses):
    rates = [10 ** (0.1 * i) for i in range(len(losses))]
    end, length = longest_fall(losses)
    place = end - length + int(length / 3) + int(length / 6)
    assert ramp_rules.valley(rates, losses) == rates[max(0, place)]


@given(LOSSES)
def test_the_slide_stops_where_the_slope_no_longer_changes(losses):
    rates = [10 ** (0.1 * i) for i in range(len(losses))]
    found = ramp_rules.slide(rates, losses)
    if len(losses) <= 15:
        assert found is None
        return
    slopes = np.gradient(losses)
    pairs = range(len(losses) - 16, -1, -1)  # the left points, from the right
    calm = [left for left in pairs if abs(slopes[left + 15] - slopes[left]) <= 0.005]
    first = len(losses) - 16
    place = min(first, calm[0] + 1) if calm else 0
    assert found == rates[place]


def test_the_other_rules_on_a_ramp_with_known_answers():
    rates, losses = [1.0, 10.0, 100.0, 1000.0], [5.0, 4.0, 1.0, 9.0]
    assert ramp_rules.steep(rates, losses) == 10.0
    assert ramp_rules.minimum(rates, losses) == 10.0
    assert ramp_rules.steepest_by_rate(rates, [5.0, 4.0, 1.0, 0.5]) == 1.0
    assert ramp_rules.steepest_by_update(rates, [5.0, 4.0, 1.0, 0.5]) == 10.0


@given(LOSSES, st.sampled_from(sorted(RULES)))
def test_a_rule_gives_a_rate_of_the_ramp_or_a_tenth_or_none(losses, name):
    rule = RULES[name]
    lrs = tuple(rule.plan.low * 1.5**i for i in range(len(losses)))
    found = rule.suggest(Ramp(rule.plan, 0, lrs, tuple(losses), False), 40)
    assert found is None or any(math.isclose(found, lr / part) for lr in lrs for part in (1, 10))


def test_what_the_rules_missed_is_what_the_benchmark_measured():
    text = PAGE.read_text(encoding="utf-8").split("## All tasks")[1].split("## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| (.+) \|$", text, re.MULTILINE))
    names = {
        "valley": "fastai valley", "steep": "fastai steep", "minimum/10": "fastai minimum/10",
        "lightning": "lightning Tuner", "lr-finder": "pytorch-lr-finder", "tune": "Etude 1.3",
    }  # fmt: skip
    measured = {"tune": TUNER, **{n: r.missed for n, r in RULES.items() if r.missed is not None}}
    assert set(measured) == set(names)
    assert "28 tasks" in text
    for name, missed in measured.items():
        median, _, worst, _ = (cell.strip() for cell in rows[names[name]].split("|"))
        assert f"{missed.median:.2%}" == median
        assert f"{missed.worst:.1%}" == worst


# ---- the verb -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_ramp_stops_as_soon_as_the_loss_has_risen_too_far(rule):
    found = range_test(task(), RECIPE, rule=rule, repeats=2, progress=False)
    for ramp in found.ramps:
        smoothed = np.array(ramp.smoothed)
        high = smoothed > found.rule.plan.factor * np.minimum.accumulate(smoothed)
        assert not high[:-1].any()
        assert high[-1] or ramp.diverged or len(smoothed) == 100


@given(st.floats(0.1, 3.0))
@settings(max_examples=5, deadline=None)
def test_a_negative_loss_does_not_stop_the_ramp(shift):
    """A loss that lies lower by a constant has the same ramp, until it rises."""
    x, y = data()
    target = y[:, None].float()
    shifted = Task(lambda: mlp(6, 1), (x, target), loss=lambda a, b: mse_loss(a, b) - shift - 2)
    ramp = run_ramp(shifted, RECIPE, FASTAI, 60)
    assert len(ramp.losses) > 40


def test_nothing_of_the_users_changes():
    model = mlp().eval()
    before = [p.clone() for p in model.parameters()]
    given = Task(model, data(), loss=cross_entropy)
    state = torch.get_rng_state()
    range_test(given, RECIPE, repeats=1, updates=40, progress=False)
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_repeats_are_ramps_with_the_next_seeds_and_the_median_counts():
    three = range_test(task(), RECIPE, repeats=3, progress=False)
    alone = [
        range_test(task(), RECIPE.replace(seed=seed), repeats=1, progress=False).ramps[0]
        for seed in (0, 1, 2)
    ]
    assert list(three.ramps) == alone
    low, middle, high = three.found
    assert (three.lr, three.interval) == (middle, (low, high))
    assert three.recipe == RECIPE.replace(lr=middle)
    assert three.cost == sum(len(ramp.losses) for ramp in three.ramps) / 400
    assert f"{low:.3g} to {high:.3g}" in three.advice()


def test_multiples_of_the_rate_and_accumulation_stay():
    flat = range_test(task(), RECIPE, repeats=1, updates=40, progress=False)
    frozen = RECIPE.replace(lr_mult={"0.*": 0.0}, accumulate=2)
    other = range_test(task(), frozen, repeats=1, updates=40, progress=False)
    assert other.ramps[0].lrs[:10] == flat.ramps[0].lrs[:10]
    assert other.ramps[0].losses != flat.ramps[0].losses


def test_a_ramp_on_which_nothing_can_be_read_is_no_answer():
    x = torch.zeros(64, 1)
    broken = Task(lambda: nn.Linear(1, 1), (x, x), loss=lambda a, b: mse_loss(a, b) * 0 + 1.0)
    found = range_test(broken, RECIPE, rule="slide", updates=30, repeats=2, progress=False)
    assert found.lr is None or found.interval is not None
    short = Ramp(FASTAI, 0, (1e-7, 1e-6), (1.0, 1.0), True)
    assert all(RULES[name].suggest(short, 100) is None for name in RULES)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"rule": "valey"}, UnknownNameError, "did you mean 'valley'"),
        ({"updates": 29}, BadValueError, r"updates=29 is out of bounds: give at least 30"),
        ({"updates": 40.0}, BadTypeError, r"updates=40.0 is not a whole number"),
        ({"repeats": 0}, BadValueError, r"repeats=0 is out of bounds: give at least 1"),
        ({"recipe": RECIPE.replace(optimizer="adadelta")}, BadValueError, "chooses the size"),
    ],
)
def test_bad_input_is_one_message(wrong, error, words):
    with pytest.raises(error, match=words):
        range_test(**{"task": task(), "recipe": RECIPE, "progress": False, **wrong})


def test_parts_that_take_turns_have_no_ramp():
    from tests.training.turns.common import task as turns

    with pytest.raises(TaskError, match="take turns"):
        range_test(turns(), RECIPE, progress=False)


def test_it_is_public():
    assert etude.range_test is range_test
