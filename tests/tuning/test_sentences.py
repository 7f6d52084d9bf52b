"""Every sentence that is said of a rate, held against full runs at that rate, on ten tasks."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Recipe, Task, TuneResult, tasks, train
from etude.report import words
from etude.report.kinds.tuning import of_tuning
from etude.report.sentences import broken_said, tie_said
from etude.tuning.advice import fell
from tests.tuning.common import quick, said_of_a_constant

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2)
Case = tuple[Task, Recipe]


def net(inputs: int, hidden: int, outputs: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def bundled(name: str, steps: int) -> Case:
    task = tasks.get(name)
    return task, Recipe(**{**task.defaults, "steps": steps, "batch_size": 32})


def headline() -> Case:
    x = normal(500, 6, 0)
    task = Task(net(6, 32, 2), (x, (x[:, 0] * x[:, 1] > 0).long()), loss=cross_entropy)
    return task, Recipe(optimizer="adamw", steps=200, batch_size=32)


def late() -> Case:
    x = normal(1000, 12, 1)
    task = Task(net(12, 64, 2), (x, (x[:, :3].prod(1) > 0).long()), loss=cross_entropy)
    return task, Recipe(steps=300, batch_size=32)


def noise() -> Case:
    y = torch.randint(0, 2, (300,), generator=torch.Generator().manual_seed(2))
    return Task(net(8, 32, 2), (normal(300, 8, 3), y), loss=cross_entropy), Recipe(
        steps=120, batch_size=32
    )


def one_class() -> Case:
    y = torch.zeros(200, dtype=torch.long)
    return Task(net(4, 16, 2), (normal(200, 4, 4), y), loss=cross_entropy), Recipe(
        steps=96, batch_size=16
    )


def unscaled_targets() -> Case:
    x = normal(300, 4, 5)
    task = Task(net(4, 32, 1), (x, 1e3 * x[:, :1].sin() + 500), loss=mse_loss)
    return task, Recipe(optimizer="adamw", steps=160, batch_size=32)


def loss_times_a_million() -> Case:
    x = normal(300, 4, 6)

    def scaled(output: Tensor, target: Tensor) -> Tensor:
        return 1e6 * mse_loss(output, target)

    return Task(net(4, 16, 1), (x, x[:, :1] * x[:, 1:2]), loss=scaled), Recipe(
        optimizer="sgd", steps=96, batch_size=16
    )


def bad_batch() -> Case:
    x = normal(64, 4, 0)
    y = x[:, :1].round()

    def spread(output: Tensor, target: Tensor) -> Tensor:
        return mse_loss(output, target) * (2 - target.std().log())

    return Task(nn.Linear(4, 1), (x, y), valid=(x, y), loss=spread), Recipe(steps=40, batch_size=2)


CASES: dict[str, Callable[[], Case]] = {
    "cancer": lambda: bundled("cancer-mlp", 120),
    "diabetes": lambda: bundled("diabetes-mlp", 120),
    "digits": lambda: bundled("digits-mlp", 120),
    "headline": headline,
    "late": late,
    "noise": noise,
    "one class": one_class,
    "unscaled targets": unscaled_targets,
    "loss times a million": loss_times_a_million,
    "bad batch": bad_batch,
}


@cache
def case(name: str) -> Case:
    return CASES[name]()


@cache
def full(name: str, lr: float, seed: int = 0) -> tuple[str, int, float, tuple[float, ...], bool]:
    """Train in full at a rate: status, updates, loss, its slices, whether the training fell."""
    task, recipe = case(name)
    record = train(task, recipe.replace(lr=lr, seed=seed))
    last = record.evaluations[-1]
    loss = last.loss if record.status == "finished" and math.isfinite(last.loss) else math.inf
    return record.status, record.cost.steps, loss, last.parts, fell(record)


@cache
def tuned(name: str, budget: float) -> TuneResult:
    task, recipe = case(name)
    return quick(task, recipe, budget, engine="loop")


def drop(best: TuneResult) -> float:
    return best.untrained.loss - best.loss


def tie_room(name: str, best: TuneResult, lr: float) -> float:
    """Return what the sentence allows: 1% of the drop, two errors of the slices, and the seeds."""
    mine, own = full(name, lr)[3], full(name, best.lr)[3]
    differences = [a - b for a, b in zip(mine, own, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    ends = [full(name, rate, seed)[2] for rate in (lr, best.lr) for seed in SEEDS]
    finite = [end for end in ends if math.isfinite(end)]
    spread = statistics.stdev(finite) if len(finite) > 1 else 0.0
    return 0.01 * drop(best) + 2 * error + spread


def rates_before(text: str, said: str, best: TuneResult) -> list[float]:
    """Return the tried rates that stand before some words in a text."""
    names = {words.rate(t.lr): t.lr for t in best.trials}
    part = next(part for part in text.split("; ") if said in part)
    return [names[name] for name in part.partition(f" {said}")[0].split(", ")]


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_what_is_said_of_a_rate_is_what_full_runs_at_it_show(name, budget):
    best = tuned(name, budget)
    said = of_tuning(best)
    if best.outcome == "nothing trains":
        assert f"{words.plural(len(best.trials), 'rate')}" in said.lede
        for trial in best.trials:
            status, _, loss, *_ = full(name, trial.lr)
            line = best.untrained.loss - 1e-3 * abs(best.untrained.loss)
            assert status == "diverged" or loss >= line, (trial.lr, loss)
        if "The training loss fell at none" in said.notice:
            assert not any(full(name, t.lr)[4] for t in best.trials)
        return
    whole = full(name, best.lr)
    if best.outcome == "unfinished":
        assert best.record.cost.steps < best.record.length
    else:
        assert whole[2] == best.loss
    if best.constant is not None and best.outcome != "unfinished":
        assert said_of_a_constant(best) or best.outcome == "too small to tell"
    if best.outcome == "found" and best.constant is not None:
        assert statistics.median(full(name, best.lr, s)[2] for s in SEEDS) < best.constant.loss


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_where_training_is_said_to_break_it_breaks(name, budget):
    best = tuned(name, budget)
    if best.outcome == "nothing trains":
        return
    sentence, rate = broken_said(best), best.stable_below
    above = [t for t in best.trials if t.lr > best.lr]
    if rate is None:
        broke = [t for t in above if t.record.status == "diverged"]
        assert ("at update" in sentence) == bool(broke)
        return
    assert words.rate(rate) in sentence
    status, steps, loss, *_ = full(name, rate)
    if "training diverged" in sentence:
        assert (status, f"at update {words.count(steps)}." in sentence) == ("diverged", True)
    else:
        assert best.untrained.loss - loss < 0.5 * drop(best)
    bad = [best.untrained.loss - full(name, rate, seed)[2] < 0.5 * drop(best) for seed in SEEDS]
    assert sum(bad) > len(SEEDS) / 2, bad


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_what_is_said_to_tie_ties_and_what_is_said_to_stand_behind_does(name, budget):
    best = tuned(name, budget)
    if best.outcome in ("nothing trains", "unfinished"):
        return
    sentence = tie_said(best)
    others = [t for t in best.trials if t.lr != best.lr]
    if tied := [t.lr for t in others if t.tied and t.followed]:
        assert rates_before(sentence, "cannot be told apart", best) == tied
        for lr in tied:
            assert full(name, lr)[2] - best.loss <= tie_room(name, best, lr), lr
    if behind := [t.lr for t in others if t.followed and not t.tied]:
        assert rates_before(sentence, "did worse", best) == behind
        for lr in behind:
            assert full(name, lr)[2] >= best.loss - 0.01 * drop(best), lr


def test_a_choice_that_was_made_before_any_rate_beat_a_constant_is_said_to_be_one():
    """For the first part of a run that learns late nothing tells which rate will end best."""
    for budget in (1.5, 3.0):
        best = tuned("late", budget)
        early = [t for t in best.trials if t.record.cost.steps < best.record.length / 4]
        if best.outcome in ("found", "at an edge") and early:
            assert "when no rate was better yet than a constant output" in best.advice()


NUMBER = r"([\d.e+-]+\d)"


def found(pattern: str, text: str) -> tuple[float, ...] | None:
    """Return the numbers that stand in a sentence; None where it is not said."""
    match = re.search(pattern.replace("#", NUMBER), text)
    return None if match is None else tuple(map(float, match.groups()))


def near(value: float) -> object:
    """Allow for the four or six digits that a sentence gives."""
    return pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("budget", [1.5, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_every_number_of_the_advice_is_what_the_trials_show(name, budget):
    best = tuned(name, budget)
    said, rates = best.advice(), [t.lr for t in best.trials]
    broke = [t for t in best.trials if t.record.status == "diverged"]
    assert of_tuning(best).notice == said
    spent = found(r"the budget of # runs", said)
    assert spent is None or spent == (budget,)
    assert ("one tried, and the budget" in said) == (best.outcome == "at an edge")
    if best.outcome == "at an edge":
        side = min if "is the lowest one tried" in said else max
        assert best.lr == side(rates)
    if best.outcome == "too small to tell":
        assert "None of the rates from" in said or "cannot be told" in said
    else:
        assert "None of the rates from" not in said
    if ends := found(r"None of the rates from # to # can be ruled out: .* as well as #\.", said):
        sound = [t.lr for t in best.trials if not t.unstable]
        assert ends == (near(sound[0]), near(sound[-1]), near(best.lr))
        assert not [t for t in best.trials if not t.tied and not t.unstable]
    assert said.count("udget of") - said.count("the budget of") <= 1
    if larger := found(r"A budget of # pays for .* \(# more than it cost\)", said):
        assert larger[0] > budget
        assert larger[1] == pytest.approx(larger[0] - best.cost, rel=5e-3)
    if kept := found(r"Train at # with Recipe\(early_stopping=#\): .* is # or lower", said):
        task, recipe = case(name)
        stopped = recipe.replace(lr=best.left_better.lr, early_stopping=int(kept[1]))
        assert train(task, stopped).valid_loss <= kept[2] * 1.001
    assert ("Better rates diverged" in said) == (best.outcome == "unfinished")
    if stood := found(r"# is the best that was sound, after # of # updates", said):
        assert broke
        record = best.record
        assert stood == (near(best.lr), record.cost.steps, record.length)
        assert record.cost.steps < record.length
    assert ("cannot be shown to be better than a constant" in said) == (
        best.outcome == "no better than a constant"
    )
    if pair := found(r"is #, an output that is the same for every input gives #,", said):
        assert pair == (near(best.chosen.record.evaluations[-1].loss), near(best.constant.loss))
    if ends := found(r"No rate from # to # came to the end", said):
        assert best.outcome == "nothing trains"
        assert ends == (near(rates[0]), near(rates[-1]))
    if losses := found(r"best validation loss is #, untrained it is #\.", said):
        assert losses == (near(best.loss), near(best.untrained.loss))
    if fallen := found(r"The training loss fell, at # of # rates", said):
        sound = [t for t in best.trials if t not in broke]
        assert fallen == (sum(fell(t.record) for t in sound), len(rates))
    if count := found(r"and # of # ended in NaN or infinity", said):
        assert count == (len(broke), len(rates))
    if steps := found(r"All # ended in NaN or infinity, at updates # to #\.", said):
        updates = [t.record.cost.steps for t in broke]
        assert steps == (len(rates), min(updates), max(updates))
