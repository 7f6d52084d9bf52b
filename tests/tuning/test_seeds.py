"""`seeds`: the best rates compared over several seeds, in one search and one budget."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import t
from torch import nn
from torch.nn.functional import mse_loss
from typer.testing import CliRunner

from etude import Recipe, Task, TuneResult, tune
from etude.cli.program import app
from etude.engines import LoopEngine
from etude.errors import BadTypeError, BadValueError
from etude.record import Evaluation, Record
from etude.report import present
from etude.training.loop import TrainingLoop
from etude.trials.score import Goal
from etude.tuning.search.seed_budget import least_budget, searched
from etude.tuning.seed_evidence import SeedEvidence, over_seeds
from tests.tuning.common import facts, quick, same, task, weights

RECIPE = Recipe(optimizer="adamw", steps=32, batch_size=16, evaluations=8)
BUDGET = 7.0


@pytest.fixture(scope="module")
def over(tmp_path_factory) -> TuneResult:
    return quick(task(), RECIPE, BUDGET, seeds=3, engine="loop", folder=folder(tmp_path_factory))


def folder(factory):
    return factory.getbasetemp() / "over-seeds"


def seeded(home, result, trial):
    """Return the records of a rate with every seed."""
    first = Record.load(home / trial.folder)
    others = [Record.load(home / f"{trial.folder}-seed-{one.seed}") for one in trial.seeds[1:]]
    return [first, *others]


def test_the_mean_over_seeds_chooses_among_those_trained_with_every_seed(over, tmp_path_factory):
    home = folder(tmp_path_factory)
    compared = [trial for trial in over.trials if trial.seeds]
    assert over.seeds == 3
    assert len(compared) >= 2
    assert over.chosen in compared
    assert all([one.seed for one in trial.seeds] == [0, 1, 2] for trial in compared)
    step = min(one.updates for trial in compared for one in trial.seeds)
    deep = [t for t in compared if min(one.updates for one in t.seeds) >= 24]
    assert step >= 8
    assert len(deep) == 2

    def mean(trial):
        rows = seeded(home, over, trial)
        steps = set.intersection(*({e.step for e in r.evaluations} for r in rows))
        last = max(s for s in steps if s <= min(one.updates for one in trial.seeds))
        return math.fsum(next(e.loss for e in r.evaluations if e.step == last) for r in rows) / 3

    # Recomputed from the files; the mean of the weights may lower a value, of both alike.
    assert mean(over.chosen) <= min(map(mean, deep)) * 1.05


def test_the_cost_is_what_was_trained_and_within_the_budget(monkeypatch):
    made = []
    plain = TrainingLoop._update
    monkeypatch.setattr(
        TrainingLoop, "_update", lambda self, stream: (made.append(1), plain(self, stream))[1]
    )
    found = quick(task(), RECIPE, 3.0, seeds=2, engine="loop")
    assert len(made) == round(found.cost * 32) <= 3 * 32
    spent = {part.name: part.runs for part in found.costs}
    assert 0 < spent["other seeds"] <= found.cost - 1
    assert math.isclose(math.fsum(spent.values()), found.cost)


def test_one_seed_is_what_no_seeds_are():
    assert same(quick(task(), RECIPE, seeds=1, engine="loop"), quick(task(), RECIPE, engine="loop"))


def test_the_model_is_that_of_the_first_seed_and_others_do_not_change_it(over):
    import etude

    assert over.recipe.seed == 0
    assert weights(over.model) == weights(etude.train(task(), over.recipe).model)


@pytest.mark.slow
def test_every_engine_gives_the_same_bits(over):
    assert same(quick(task(), RECIPE, BUDGET, seeds=3, engine="pool"), over)


class Stopping(LoopEngine):
    """A loop that is interrupted at one of its calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def advance(self, runs, request=None):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt("here")
        super().advance(runs, request)


@pytest.mark.parametrize("calls", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_an_interrupted_tuning_goes_on_to_the_same_bits(over, tmp_path, calls):
    with pytest.raises(KeyboardInterrupt, match="here"):
        quick(task(), RECIPE, BUDGET, seeds=3, engine=Stopping(calls), folder=tmp_path)
    assert same(tune(task(), folder=tmp_path, resume=True, engine="loop", progress=False), over)
    kept = TuneResult.load(tmp_path)
    assert (kept.seeds, kept.trials[0].seeds) == (over.seeds, over.trials[0].seeds)
    assert facts(kept)["trials"] == facts(over)["trials"]


@pytest.mark.slow
def test_more_budget_repeats_no_update(tmp_path, monkeypatch):
    first = quick(task(), RECIPE, 3.0, seeds=2, engine="loop", folder=tmp_path)
    made = []
    plain = TrainingLoop._update
    monkeypatch.setattr(
        TrainingLoop, "_update", lambda self, stream: (made.append(1), plain(self, stream))[1]
    )
    later = tune(task(), folder=tmp_path, resume=True, more=3, engine="loop", progress=False)
    assert later.seeds == 2
    assert first.cost < later.cost <= 6
    assert len(made) == round((later.cost - first.cost) * 32)


def test_a_file_from_before_seeds_is_of_one(tmp_path):
    quick(task(), RECIPE, 1.5, engine="loop", folder=tmp_path)
    file = tmp_path / "tuning.json"
    table = json.loads(file.read_text())
    for part in (table["result"], table["request"], *table["result"]["trials"]):
        part.pop("seeds")
    table["result"].pop("judged_on")
    table["request"].pop("least_valid_samples")
    file.write_text(json.dumps(table))
    kept = TuneResult.load(tmp_path)
    assert (kept.seeds, kept.judged_on, kept.chosen.seeds) == (1, None, ())
    larger = tune(task(), folder=tmp_path, resume=True, more=0.5, engine="loop", progress=False)
    assert larger.seeds == 1


class Scaled(nn.Module):
    """A line whose scale is drawn with its weight: with some seeds it diverges at lower rates."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 8.0 if torch.rand(()) > 0.5 else 1.0
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.weight * x


def scaled() -> Task:
    x = torch.linspace(-1, 1, 64)[:, None]
    return Task(Scaled, (x, 0.5 * x), loss=lambda y, z: 1e30 * mse_loss(y, z) / 1e30)


@pytest.mark.slow
def test_a_rate_that_diverges_with_another_seed_is_the_edge_or_is_not_chosen():
    drawn = []
    for seed in range(12):
        found = quick_seeds(seed, 1, 1.5)
        drawn.append(found.model.scale)
    seed = next(i for i in range(11) if (drawn[i], drawn[i + 1]) == (1.0, 8.0))
    alone, both = quick_seeds(seed, 1, 4.0), quick_seeds(seed, 2, 8.0)
    broke = [t for t in both.trials if t.broken_seed is not None]
    assert alone.lr > 0.1  # what the first seed alone would take breaks the second
    assert broke
    assert both.lr < min(t.lr for t in broke)
    assert both.stable_below is not None
    assert both.stable_below <= min(t.lr for t in broke)
    said = str(present(both).lede)
    assert f"with seed {seed + 1}" in said


def quick_seeds(seed: int, seeds: int, budget: float) -> TuneResult:
    recipe = Recipe(
        optimizer="sgd", steps=64, batch_size=16, seed=seed, schedule="constant()", evaluations=8
    )
    return quick(scaled(), recipe, budget, seeds=seeds, engine="loop", lr_range=(1e-3, 30.0))


@dataclass(eq=False)
class Seen:
    """A trial with evaluations, as the evidence reads it."""

    lr: float
    losses: dict[int, tuple[float, ...]]
    diverged: bool = False

    def at(self, step):
        parts = self.losses.get(step)
        return None if parts is None else Evaluation(step, sum(parts) / len(parts), None, parts)

    def evaluated(self):
        return [self.at(step) for step in sorted(self.losses)]


def test_differences_are_paired_by_seed_and_their_error_is_pooled():
    best = tuple(Seen(0.1, {4: (2.0, 2.0), 8: (1.0 + s, 1.0 + s)}) for s in range(3))
    near = tuple(Seen(0.2, {4: (9.0, 9.0), 8: (1.1 + s, 1.1 + s + 0.2 * s)}) for s in range(3))
    far = tuple(Seen(0.4, {4: (2.5 + s, 2.5 + s)}) for s in range(3))
    alone = Seen(0.05, {8: (3.0, 3.0)})
    evidence = SeedEvidence({0.1: best, 0.2: near, 0.4: far}, Goal())
    assert evidence.count == 3
    mine, other = evidence.pair(near[0], best[0])
    assert (mine.step, other.step) == (8, 8)
    assert mine.parts == pytest.approx((2.1, 2.3))
    assert other.loss == pytest.approx(2.0)
    assert evidence.pair(alone, best[0]) is None
    assert evidence.pair(far[0], best[0])[0].step == 4
    # Differences: .1, .2, .3 of one rate and .5, 1.5, 2.5 of the other: variances .01 and 1.
    pooled = math.sqrt((2 * 0.01 + 2 * 1.0) / 4)
    assert evidence.error(near[0], best[0]) == (pytest.approx(pooled / math.sqrt(3)), 4)
    assert evidence.error(alone, best[0]) == (pytest.approx(pooled), 4)
    half = evidence.half_error(alone, best[0])
    assert half == pytest.approx(pooled * t.ppf(0.975, 4) / 2)


def test_a_mean_over_seeds_is_taken_slice_by_slice():
    found = over_seeds([Evaluation(4, 1.0, 0.5, (0.5, 1.5)), Evaluation(4, 2.0, 0.7, (1.5, 2.5))])
    assert (found.loss, found.metric, found.parts) == (1.5, pytest.approx(0.6), (1.0, 2.0))


@pytest.mark.parametrize(
    ("seeds", "error", "said"),
    [
        (0, BadValueError, r"seeds=0 is out of bounds: give 1 to 100"),
        (101, BadValueError, r"seeds=101 is out of bounds"),
        (2.5, BadTypeError, r"seeds=2\.5 is not a whole number"),
        (True, BadTypeError, r"seeds=True is not a whole number"),
        ("3", BadTypeError, r"seeds='3' is not a whole number"),
        (5, BadValueError, r"budget=3 is too small for seeds=5.* at least 3\.45 full runs"),
    ],
)
def test_what_is_no_number_of_seeds_is_refused(seeds, error, said):
    with pytest.raises(error, match=said):
        quick(task(), RECIPE, 3.0, seeds=seeds)


def test_seeds_of_folds_are_refused():
    with pytest.raises(BadValueError, match=r"seeds=2 and folds=2 both train every rate anew"):
        quick(task(), RECIPE, 9.0, seeds=2, folds=2)


def test_half_of_a_budget_is_for_the_search_and_the_least_holds_both():
    for seeds in range(1, 9):
        least = least_budget(seeds)
        assert searched(least, seeds) == pytest.approx(1.2)
        for budget in (least, 2 * least, 50.0):
            assert 1.2 - 1e-9 <= searched(budget, seeds) <= budget
    assert searched(20.0, 4) == 10.0


@pytest.mark.slow
def test_the_command_line_takes_seeds_and_says_so(tmp_path):
    given = ["tune", "cancer-mlp", "--set", "steps=32", "--budget", "2.5", "--seeds", "2"]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "2 seeds" in result.output
    refused = CliRunner().invoke(app, [*given[:-1], "0", "--out", str(tmp_path / "none")])
    assert refused.exit_code == 2
    assert "seeds=0 is out of bounds" in refused.output
