"""What a tuning's evaluations are on, and what share of its time they take."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import etude
from etude import Record, Task, TuneResult
from etude.report import present
from etude.training.evaluation.evaluate import evaluate
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.trials import valid_samples
from etude.tuning import overfits
from tests import helpers
from tests.tuning.common import BASE, mlp, noisy, quick, same, task, weights

SOME = 48


def many(**more: Any) -> Task:
    """A task with 200 validation samples."""
    x, y = helpers.data(400, tilt=0.5)
    return Task(
        mlp, (x[:200], y[:200]), (x[200:], y[200:]), loss=cross_entropy, metric="auroc", **more
    )


@pytest.fixture(scope="module")
def cut() -> TuneResult:
    return quick(many(), valid_samples=SOME, engine="loop")


def test_rates_are_compared_on_some_samples_and_the_model_is_judged_on_all(cut):
    whole = many()
    part = valid_samples.compared_on(whole, cut.recipe, SOME)
    assert cut.valid_samples == part.valid.samples == SOME
    *_, last = cut.record.evaluations
    own = cut.chosen.record.evaluations[-1]
    for seen, on in ((last, whole), (own, part)):
        found = evaluate(on, cut.model, step=64, batch_size=128)
        assert (seen.loss, seen.metric, seen.step) == (found.loss, found.metric, 64)
    assert last.loss != own.loss
    assert cut.record.evaluations[:-1] == cut.chosen.record.evaluations[:-1]
    assert len({t.record.evaluations[0].loss for t in cut.trials}) == 1


def test_easier_samples_are_no_overfitting_of_the_model_that_is_judged_on_all(cut):
    """The last loss is higher since it is of harder data: that was said to be overfitting."""
    own = cut.chosen.record
    losses = [1.0 - 0.1 * i for i in range(len(own.evaluations))]
    seen = tuple(replace(e, loss=x) for e, x in zip(own.evaluations, losses, strict=True))
    falling = replace(own, evaluations=seen, series={**own.series, "loss": np.linspace(1, 0, 64)})
    chosen = replace(cut.chosen, record=falling)
    on_all = replace(falling, evaluations=(*seen[:-1], replace(seen[-1], loss=0.9, parts=())))
    others = [t for t in cut.trials if t.lr != cut.lr and not t.followed]
    trials = tuple(sorted((chosen, *others), key=lambda t: t.lr))
    found = replace(cut, record=on_all, trials=trials, doubts=(), notes=())
    assert "while the training loss fell" in overfits.said(on_all, trials)
    assert "while the training loss fell" not in found.advice()


def test_the_samples_do_not_change_what_a_rate_learns(cut):
    assert weights(cut.model) == weights(etude.train(many(), cut.recipe).model)


def test_a_set_that_is_not_large_gives_what_all_of_it_gives():
    found, whole = (quick(task(), valid_samples=v, engine="loop") for v in ("auto", "all"))
    assert found.valid_samples is None
    assert same(found, whole)


def test_a_large_set_is_cut_by_itself_and_a_short_run_judged_at_its_pauses_alone():
    x, y = helpers.data(2_300, tilt=0.5)
    of = Task(mlp, (x[:200], y[:200]), (x[200:], y[200:]), loss=cross_entropy)
    found = quick(of, etude.Recipe(steps=32, batch_size=4), 1.5, engine="loop")
    assert found.valid_samples == found.judged_on == 256
    assert {e.step for t in found.trials for e in t.record.evaluations} == {0, 8, 32}
    said = str([(f.name, f.value, f.note) for f in present(found).facts])
    assert "256 samples" in said
    assert "the final scores are on 256 samples too" in said


class Counting(torch.nn.Module):
    """A network that counts the samples it sees, with gradients and without."""

    seen: ClassVar = {True: 0, False: 0}

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen[torch.is_grad_enabled()] += len(x)
        return self.layer(x)


@pytest.mark.parametrize(
    ("samples", "budget", "on_all"), [(3_000, 1.5, True), (3_000, 3.0, True), (20_000, 1.5, False)]
)
def test_validation_takes_a_fifth_of_the_work_at_most_counted_in_forward_passes(
    samples, budget, on_all
):
    x, y = helpers.data(samples + 500, tilt=0.5)
    of = Task(Counting, (x[:500], y[:500]), (x[500:], y[500:]), loss=cross_entropy)
    Counting.seen |= {True: 0, False: 0}
    found = quick(of, etude.Recipe(steps=400, batch_size=64), budget, engine="loop")
    looks = 3 * 512  # at the training data, before and after: the same for every set and length
    assert Counting.seen[False] - looks <= (3 * Counting.seen[True]) / 4
    assert valid_samples.LEAST < found.valid_samples < samples
    assert found.judged_on == (None if on_all else found.valid_samples)
    fresh = evaluate(of, found.model, batch_size=128)
    assert (found.loss == fresh.loss) == on_all


def test_an_answer_says_what_few_samples_cannot_tell_and_all_can_be_asked_for():
    x, y = helpers.data(3_400, tilt=0.5)
    of = Task(mlp, (x[:400], y[:400]), (x[400:], y[400:]), loss=cross_entropy)
    recipe = etude.Recipe(steps=64, batch_size=8)
    few = quick(of, recipe, 3.0, engine="loop")
    said = [note for note in few.notes if "Rates were compared on 256 of 3,000" in note]
    assert len(said) == 1
    whole = quick(of, recipe, 3.0, valid_samples="all", engine="loop")
    assert (whole.valid_samples, whole.judged_on) == (None, None)
    assert not [note for note in whole.notes if "Rates were compared on" in note]


def test_every_engine_and_a_resumed_tuning_see_the_same_samples(cut, tmp_path):
    assert same(quick(many(), valid_samples=SOME, engine="pool"), cut)
    folder = tmp_path / "run"
    quick(many(), budget=2.0, valid_samples=SOME, folder=folder, engine="loop")
    larger = quick(many(), budget=3.0, folder=folder, resume=True, engine="loop")
    assert larger.valid_samples == SOME
    # The untrained network is judged on these samples, whatever the budget.
    assert larger.trials[0].record.evaluations[0] == cut.trials[0].record.evaluations[0]
    kept = TuneResult.load(folder)
    assert kept.valid_samples == SOME
    assert kept.record.evaluations == larger.record.evaluations
    assert kept.evaluation_seconds == larger.evaluation_seconds


def test_folds_are_cut_each_and_the_finished_model_is_judged_on_all():
    found = quick(many(), valid_samples=SOME, folds=2, engine="loop")
    assert found.valid_samples == SOME
    expected = evaluate(many(), found.model, batch_size=128)
    assert found.record.evaluations[-1].loss == expected.loss


class Clock:
    """A clock that stands still but for what is added."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def metric(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        """An accuracy that takes a second."""
        self.now += 1.0
        return float((outputs.argmax(1) == targets).float().mean())

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A loss that takes an eighth of a second where a gradient is asked for."""
        self.now += 0.125 if output.requires_grad else 0.0
        return cross_entropy(output, target)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("time.perf_counter", found)
    return found


def slow(clock: Clock, model: Any = mlp) -> Task:
    return Task(model, helpers.data(120), loss=clock.loss, metric=clock.metric, maximize=True)


@pytest.mark.parametrize("engine", ["loop", "pool", "vmap"])
def test_a_slow_metric_shows_in_the_share_of_the_time(clock, engine):
    found = quick(slow(clock), engine=engine)
    updates = sum(t.record.cost.steps for t in found.trials)
    evaluations = found.evaluation_seconds
    # Weights that are alike are evaluated once before training; the mean of the weights besides.
    plain = sum(len(t.record.evaluations) - 1 for t in found.trials) + 1
    means = {"24": 3 / 8, "32": 1 / 2, "40": 5 / 8, "48": 3 / 4}
    extra = sum(e.step in map(int, means) for t in found.trials for e in t.record.evaluations)
    assert evaluations == plain + extra
    if engine != "vmap":  # a stack computes the losses of all its members in one call
        assert found.compute_seconds - evaluations == 0.125 * updates
        assert found.evaluation_share == evaluations / (evaluations + 0.125 * updates)
    said = "".join(str(section) for section in present(found).sections)
    assert f"took {found.evaluation_share:.0%} of the time" in said


def test_with_the_metric_as_the_aim_its_noise_is_paid_too(clock):
    by_loss = quick(slow(clock), budget=1.5, engine="loop")
    by_metric = quick(slow(clock), budget=1.5, objective="metric", engine="loop")
    plain = sum(len(t.record.evaluations) - 1 for t in by_metric.trials) + 1
    assert by_metric.evaluation_seconds >= 13 * plain  # the whole, and without each of 12 slices
    assert by_metric.evaluation_share > by_loss.evaluation_share


def test_a_run_says_what_its_evaluations_took_and_a_folder_keeps_it(clock, tmp_path):
    recipe = BASE.replace(evaluations=5)
    record = etude.train(slow(clock), recipe, folder=tmp_path)
    assert record.cost.evaluation_seconds == 6.0
    assert record.cost.seconds == 6.0 + 0.125 * 64
    kept = Record.load(tmp_path)
    assert kept.cost == record.cost
    assert "43% of it evaluations" in str(present(record).facts)
    older = {k: v for k, v in kept.plain().items() if k != "cost"}
    seconds = {k: v for k, v in asdict(kept.cost).items() if k != "evaluation_seconds"}
    before = Record.from_plain({**older, "cost": seconds}, kept.arrays())
    assert before.cost.evaluation_share is None
    assert "evaluations" not in str([f for f in present(before).facts if f.name == "Time"])


def test_a_run_that_goes_on_from_a_saved_state_adds_up_what_both_parts_took(clock):
    recipe = BASE.replace(evaluations=4)
    first, second = (Run(slow(clock, noisy), recipe) for _ in range(2))
    first.advance(AdvanceRequest(32, lambda state: state.evaluation_steps))
    assert first.record().cost.evaluation_seconds == 3.0
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(None, lambda state: state.evaluation_steps))
    assert second.record().cost.evaluation_seconds == 5.0
    assert second.record().cost.seconds == 5.0 + 0.125 * 64
