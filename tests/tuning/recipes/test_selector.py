"""`over=`: whole recipes from one budget."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Task, TuneResult, train, tune
from etude.errors import BadTypeError, BadValueError, EtudeError
from etude.schedules import parse
from etude.training.loop import TrainingLoop
from etude.training.run import Run
from etude.tuning.recipes.space import Space, with_warmup
from tests.tuning.common import BASE, data, facts, mlp, noisy, quick, same, task, weights

OVER: dict[str, Any] = {
    "optimizer": ["adamw", "sgd"],
    "batch_size": [8, 16, 32],
    "optimizer.weight_decay": (1e-4, 0.1),
    "clip_norm": [1.0, 5.0],
    "warmup": ["0%", "10%"],
}


@cache
def chosen(budget: float = 4.0) -> TuneResult:
    return quick(task(noisy), BASE, budget, over=OVER, engine="loop")


def test_every_recipe_that_is_tried_lies_in_the_space():
    best = chosen()
    assert best.selection is not None
    assert len(best.selection.tried) > 4
    for one in best.selection.tried:
        assert set(one.values) == set(OVER)
        for name, values in OVER.items():
            if isinstance(values, tuple):
                assert values[0] <= one.values[name] <= values[1]
            else:
                assert one.values[name] in values
    recipe = Space.of(BASE, OVER).recipe(best.selection.values)
    assert best.recipe.replace(lr=1.0, steps=64) == recipe.replace(lr=1.0, steps=64)


@pytest.mark.slow
@settings(max_examples=8, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    st.floats(1.5, 6),
    st.integers(20, 90),
    st.lists(st.sampled_from([4, 8, 16, 24, 40]), min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.integers(1, 3),
)
def test_every_batch_size_sees_as_many_samples_and_the_cost_stays_within_the_budget(
    budget, steps, sizes, ranged, folds
):
    check_samples_and_cost(budget, steps, sizes, ranged, folds)


@pytest.mark.parametrize(("sizes", "folds"), [([4, 24], 1), ([40], 2)])
def test_batch_sizes_see_as_many_samples_within_the_budget(sizes, folds):
    check_samples_and_cost(1.75, 21, sizes, True, folds)


def check_samples_and_cost(budget, steps, sizes, ranged, folds):
    over: dict[str, Any] = {"batch_size": sizes}
    if ranged:
        over["clip_norm"] = (0.1, 10.0)
    budget += 0.625 * folds
    best = quick(task(), BASE.replace(steps=steps), budget, over=over, folds=folds)
    assert best.cost <= budget + 1e-9
    assert best.cost == pytest.approx(sum(part.runs for part in best.costs))
    samples = best.recipe.steps * best.recipe.batch_size
    assert steps * 16 - best.recipe.batch_size < samples <= steps * 16
    if best.outcome not in ("nothing trains", "unfinished"):
        assert best.record.status == "finished"
        assert best.record.length == best.recipe.steps
        assert best.record.recipe == best.recipe


def test_the_model_is_the_one_that_training_the_recipe_gives():
    best = chosen()
    alone = train(task(noisy), best.recipe)
    assert weights(best.model) == weights(alone.model)
    assert best.record.evaluations[-1] == alone.evaluations[-1]
    assert best.record.evaluations[0] == alone.evaluations[0]


def test_what_changes_an_untrained_score_is_evaluated_anew():
    """The next recipe's evaluation before training is its own, not the first one's."""
    over = {"precision": ["float32", "bfloat16"]}
    best = quick(task(), BASE, 2.0, over=over)
    for trial in best.trials:
        own = Run(task(), trial.record.recipe)
        assert trial.record.evaluations[0] == own.evaluate()


def test_a_far_better_optimizer_is_found():
    """A narrow valley, a thousand times as steep one way: SGD crawls along it."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.w * torch.tensor([1.0, 30.0]) + 0 * x

    x = torch.zeros(40, 2)
    plain_sgd = {"name": "sgd", "momentum": 0.0}
    of = Task(Narrow, (x, x), loss=mse_loss)
    for names in (["adamw", plain_sgd], [plain_sgd, "adamw"]):
        best = quick(of, BASE.replace(steps=96, batch_size=8), 4.0, over={"optimizer": names})
        assert best.recipe.optimizer.name == "adamw"
        assert best.selection is not None
        assert best.loss < 0.05 * best.untrained.loss


@pytest.mark.parametrize("name", ["prodigy", "schedulefree_adamw"])
def test_optimizers_that_size_their_step_or_need_no_schedule_are_values_like_any_other(name):
    pytest.importorskip("prodigyopt" if name == "prodigy" else "schedulefree")
    best = quick(task(), BASE, 3.0, over={"optimizer": ["adamw", name]}, engine="loop")
    assert best.selection is not None
    tried = [one for one in best.selection.tried if one.values["optimizer"] == name]
    assert tried
    assert all(one.scores for one in tried)
    alone = quick(task(), BASE, 2.0, over={"optimizer": [name]}, engine="loop")
    assert alone.recipe.optimizer.name == name
    assert alone.record.status == "finished"
    assert alone.loss < alone.untrained.loss
    if name == "prodigy":
        assert 0.05 < alone.lr < 20
    else:
        assert "cosine" not in repr(alone.recipe.schedule)


def test_the_same_selection_twice_is_the_same_and_is_saved_and_read_back(tmp_path):
    folder = tmp_path / "run"
    again = quick(task(noisy), BASE, 4.0, over=OVER, folder=folder, engine="loop")
    assert same(again, chosen())
    assert weights(again.model) == weights(chosen().model)
    read = TuneResult.load(folder)
    assert facts(read) == facts(again)
    assert read.selection is not None
    assert read.selection.plain() == again.selection.plain()
    assert read.advice() == again.advice()


class StopError(Exception):
    pass


@cache
def updates() -> int:
    """How many updates that selection does in all."""
    seen, update = [], TrainingLoop._update

    def counted(self: TrainingLoop, *args: Any) -> None:
        seen.append(1)
        update(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", counted)
        quick(task(noisy), BASE, 4.0, over=OVER, engine="loop")
    return len(seen)


@pytest.mark.parametrize("share", [0.15, 0.45, 0.95])
def test_a_selection_interrupted_goes_on_to_the_same_result(share, tmp_path, monkeypatch):
    whole, count = chosen(), updates()
    update, seen = TrainingLoop._update, []

    def counted(self: TrainingLoop, *args: Any) -> None:
        seen.append(1)
        if len(seen) > share * count:
            raise StopError("the power is gone")
        update(self, *args)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_update", counted)
        with pytest.raises(StopError, match="the power is gone"):
            quick(task(noisy), BASE, 4.0, over=OVER, folder=folder, engine="loop")
    again = tune(task(noisy), folder=folder, resume=True, progress=False, engine="loop")
    assert same(again, whole)
    assert weights(again.model) == weights(whole.model)


def test_folds_keep_the_length_that_the_batch_size_asks_for():
    over = {"batch_size": [32]}
    best = quick(task(), BASE, 4.0, over=over, folds=2)
    assert best.recipe.steps == 32
    assert best.record.recipe == best.recipe
    assert weights(best.model) == weights(train(task(), best.recipe).model)
    epochs = quick(task(), BASE.replace(steps="8 epochs"), 4.0, over=over, folds=2)
    assert epochs.record.length * 32 == pytest.approx(8 * 96, rel=0.2)
    assert weights(epochs.model) == weights(train(task(), epochs.recipe).model)


REFUSED = {
    "no table": (["adamw"], BadTypeError, "give a table of names and values"),
    "empty": ({}, BadTypeError, "give a table of names and values"),
    "the rate": ({"lr": [0.1]}, BadValueError, r"over\['lr'\]: it is not varied: the rate is"),
    "the seed": ({"seed": [1, 2]}, BadValueError, r"over\['seed'\]: it is not varied"),
    "a typo": ({"batchsize": [8]}, EtudeError, "batch_size"),
    "an optimizer's typo": ({"optimizer": ["adamm"]}, EtudeError, "adam"),
    "a hyperparameter's typo": (
        {"optimizer.momentom": [0.1]},
        BadValueError,
        r"adamw have no 'momentom'; known: .*weight_decay",
    ),
    "of no optimizer here": (
        {"optimizer": ["adamw"], "optimizer.momentum": [0.9]},
        BadValueError,
        "adamw have no 'momentum'",
    ),
    "out of bounds": ({"optimizer.weight_decay": [-1.0]}, EtudeError, "weight_decay"),
    "no list": ({"batch_size": 8}, BadTypeError, r"over\['batch_size'\]=8: give a list of values"),
    "no values": ({"batch_size": []}, BadTypeError, "give a list of values, or a pair"),
    "a range upside down": ({"clip_norm": (5, 1)}, BadValueError, "0 < low < high"),
    "a range from zero": ({"clip_norm": (0, 1)}, BadValueError, "give a list for single values"),
    "a range of text": ({"clip_norm": ("a", "b")}, BadValueError, "a range is a pair"),
    "three": ({"clip_norm": (1, 2, 3)}, BadValueError, "a range is a pair"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_varied_is_refused_before_anything_is_written(name, tmp_path):
    over, kind, match = REFUSED[name]
    with pytest.raises(kind, match=match):
        quick(task(), BASE, over=over, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_data_cannot_give_is_refused(tmp_path):
    with pytest.raises(EtudeError, match="batch_size"):
        quick(task(), BASE, over={"batch_size": [16, 100_000]}, folder=tmp_path / "run")
    over = {"batch_size": [16, 90]}
    with pytest.raises(BadValueError, match="batches of 90 samples are only 3 updates of the 320 "):
        quick(task(), BASE.replace(steps=20), over=over, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sizes", [[40], [64, 40]])
def test_epochs_that_leave_a_part_over_cost_no_more_than_the_budget(sizes):
    """Of 96 samples, batches of 64 use 64 in an epoch, batches of 40 use 80."""
    recipe = BASE.replace(steps="40 epochs", batch_size=64)
    best = quick(task(), recipe, 2.0, over={"batch_size": sizes})
    assert best.cost <= 2.0
    assert best.record.length * best.recipe.batch_size <= 40 * 64


@pytest.mark.parametrize(("budget", "folds"), [(1.3, 1), (1.75, 3)])
def test_a_budget_that_chooses_nothing_is_refused(budget, folds):
    with pytest.raises(BadValueError, match=r"too small to choose a recipe: with over=.* at least"):
        quick(task(), BASE, budget, over={"batch_size": [8, 16]}, folds=folds)


@given(st.sampled_from(["cosine()", "constant()", "warmup('5%') >> linear()"]), st.integers(1, 30))
def test_a_warmup_is_put_in_front_and_taken_away(text, percent):
    schedule = parse(text)
    longer = with_warmup(schedule, f"{percent}%")
    assert repr(longer).startswith(f"warmup('{percent}%')")
    assert with_warmup(longer, 0) == with_warmup(schedule, 0)
    assert with_warmup(longer, f"{percent}%") == longer


def test_choices_that_fit_the_budget_are_all_tried():
    over = {"optimizer": ["adamw", "sgd"], "batch_size": [8, 16]}
    best = quick(Task(mlp, data(), loss=cross_entropy), BASE, 3.0, over=over)
    assert best.selection is not None
    tried = {(one.values["optimizer"], one.values["batch_size"]) for one in best.selection.tried}
    assert tried == {(o, b) for o in over["optimizer"] for b in over["batch_size"]}
    assert best.selection.held is None or -1 <= best.selection.held <= 1
    for one in best.selection.tried:
        assert all(math.isfinite(s) for s in one.scores)
