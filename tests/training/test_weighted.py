"""Unequal batches make the update of one large batch; an update without a target is none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from etude import Recipe, Task, train
from etude.engines.loop import LoopEngine
from etude.engines.vmap.engine import VmapEngine
from etude.errors import TaskError
from etude.record import Evaluation, Record
from etude.training.evaluation.evaluate import evaluate
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.trials.score import mean

G = torch.Generator().manual_seed(0)
X = torch.randn(48, 6, 4, generator=G)
Y = torch.randint(3, (48, 6), generator=G)
Y[1::2, 1:] = -100
ONE = Recipe(optimizer="sgd", lr=0.5, schedule="constant()", steps=3, batch_size=8, seed=1)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def padded(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(o.flatten(0, 1), t.flatten())


def weighted(o: Tensor, t: Tensor) -> Tensor:
    return nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 0.2]))(o.transpose(1, 2), t)


def masked(o: Tensor, t: Tensor) -> Tensor:
    mask = (t != -100).float()
    return ((o.sum(-1) - t).square() * mask).sum() / mask.sum().clamp_min(1)


def pair(o: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    mask = (t != -100).float()
    return ((o.sum(-1) - t).square() * mask).sum(), mask.sum()


def step(model: nn.Module, batch: Any) -> Tensor:
    return padded(model(batch[0]), batch[1])


def turns(model: Any, batch: Any) -> Iterator[Any]:
    yield "0", step(model, batch)
    yield "2", step(model, batch)


def task(loss: Any = padded, y: Tensor = Y, **more: Any) -> Task:
    if loss in (step, turns):
        return Task(net, (X, y), valid=(X, Y), step=loss, **more)
    return Task(net, (X, y), valid=(X, Y), loss=loss, **more)


def weights(record: Record) -> Tensor:
    return torch.cat([p.detach().flatten() for p in record.model.parameters()])


ADDED: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalties": {"l1": 1e-2, "l2": 0.1, "activity": 0.5},
    "clipping": {"clip_norm": 0.05, "clip_value": 0.02},
    "adamw": {"optimizer": "adamw", "lr": 0.01},
    "lbfgs": {"optimizer": {"name": "lbfgs", "max_iter": 2}, "lr": 1.0, "steps": 1},
    "newton": {"optimizer": "newton", "lr": 0.1, "l2": 0.1},
}


@pytest.mark.parametrize("loss", [padded, weighted, masked, pair, step])
@pytest.mark.parametrize("size", [1, 4])
def test_accumulated_unequal_batches_are_the_large_batch(loss, size):
    recipe = ONE.replace(lr=0.02)
    large = train(task(loss), recipe)
    small = train(task(loss), recipe.replace(batch_size=size, accumulate=8 // size))
    assert small.series["loss"] == pytest.approx(large.series["loss"], rel=1e-5)
    assert torch.allclose(weights(small), weights(large), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ADDED)
def test_what_a_recipe_adds_is_not_weighed(name):
    recipe = ONE.replace(**ADDED[name])
    large = train(task(), recipe)
    small = train(task(), recipe.replace(batch_size=2, accumulate=4))
    for series in {"loss", "penalty", "grad_norm"} & set(large.series):
        assert small.series[series] == pytest.approx(large.series[series], rel=1e-4)
    assert torch.allclose(weights(small), weights(large), rtol=1e-3, atol=1e-4)


def test_parts_that_take_turns_weigh_their_batches_too():
    recipe = ONE.replace(l2=0.01)
    large = train(task(turns), recipe)
    small = train(task(turns), recipe.replace(batch_size=2, accumulate=4))
    for series in ("loss/0", "loss/2", "penalty"):
        assert small.series[series] == pytest.approx(large.series[series], rel=1e-5)
    assert torch.allclose(weights(small), weights(large), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [padded, weighted, masked, pair, step])
def test_the_validation_loss_is_that_of_all_the_data(loss):
    order = (Y != -100).sum(1).argsort()  # sorted by length
    of = task(loss)
    whole = (X[order], Y[order])
    for valid in (whole, DataLoader(TensorDataset(*whole), 5)):
        more = {"step": step} if loss is step else {"loss": loss}
        record = train(Task(net, (X, Y), valid=valid, **more), ONE)
        with torch.no_grad():
            found = of.forward(record.model, whole)[0]
        assert record.valid_loss == pytest.approx(float(found), rel=1e-5)
        last = record.evaluations[-1]
        assert last.weight is not None
        if valid is whole:
            assert sum(last.parts) / len(last.parts) == pytest.approx(last.loss, rel=1e-5)


def empty_rows() -> Tensor:
    y = Y.clone()
    y[:30] = -100
    return y


@pytest.mark.parametrize("loss", [padded, masked, pair, step])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_update_without_a_target_has_no_gradient(loss, accumulate):
    """Plain SGD stands still in it; the run goes on."""
    seen: list[Tensor] = []
    recipe = ONE.replace(steps=24, batch_size=2, accumulate=accumulate, lr=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        record = train(
            task(loss, empty_rows()),
            recipe,
            on_step=lambda run: seen.append(
                torch.cat([p.detach().flatten() for p in run.model.parameters()])
            ),
        )
    assert record.status == "finished"
    still = [i for i in range(1, 24) if record.series["loss"][i] == 0]
    assert still
    for i in range(1, 24):
        assert torch.equal(seen[i], seen[i - 1]) == (i in still)


def test_it_is_said_once_that_an_update_has_no_target():
    with pytest.warns(UserWarning, match="no answered target") as caught:
        train(task(padded, empty_rows()), ONE.replace(steps=24, batch_size=2))
    assert sum("no answered target" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize("loss", [padded, weighted, masked, pair])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_stacked_member_is_the_single_run(loss, accumulate):
    recipe = ONE.replace(steps=16, batch_size=2, accumulate=accumulate, l2=1e-3, lr=0.02)
    of = task(loss, empty_rows())
    stacked, single = ([Run(of, recipe.replace(lr=lr)) for lr in (0.01, 0.03)] for _ in range(2))
    engine = VmapEngine(compile="never")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        engine.advance(
            stacked, AdvanceRequest(evaluation_steps=lambda state: state.evenly_spaced(2))
        )
        LoopEngine().advance(
            single, AdvanceRequest(evaluation_steps=lambda state: state.evenly_spaced(2))
        )
    assert not engine.notes
    for one, other in zip(stacked, single, strict=True):
        assert one.series["loss"] == pytest.approx(other.series["loss"], abs=1e-4)
        assert one.evaluations[-1].loss == pytest.approx(other.evaluations[-1].loss, abs=1e-4)
        assert one.evaluations[-1].weight == pytest.approx(other.evaluations[-1].weight)


def test_validation_data_without_a_target_is_named():
    of = Task(net, (X, Y), valid=(X, torch.full_like(Y, -100)), loss=padded)
    with pytest.raises(TaskError, match="the validation data has no answered target"):
        train(of, ONE)


def test_the_mean_over_folds_is_that_of_all_they_hold_out():
    found = mean(
        [Evaluation(8, 1.0, None, (1.0,), (), 30.0), Evaluation(8, 3.0, None, (3.0,), (), 10.0)]
    )
    assert found.loss == pytest.approx(1.5)
    assert sum(found.parts) / 2 == pytest.approx(1.5)
    assert found.weight == 40


def test_a_loss_that_is_no_mean_of_its_parts_is_said_once_with_the_way_out():
    def both(o: Tensor, t: Tensor) -> Tensor:
        return padded(o, t) + o.square().mean().sqrt()

    for size in (8, 1):
        with pytest.warns(UserWarning, match=r"mean of its halves' losses .*return \(sum, weight"):
            train(task(both), ONE.replace(batch_size=size, accumulate=8 // size))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for loss in (padded, weighted, masked, pair, step):
            train(task(loss), ONE.replace(steps=1))


class Apart(nn.Module):
    """A network whose samples change each other's outputs while it trains, and not afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x))


def test_a_step_that_is_no_mean_of_its_parts_is_said_too():
    def root(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]).sum(-1) - batch[1]).square().mean().sqrt()

    def plain(model: nn.Module, batch: Any) -> Tensor:
        return torch.linalg.vector_norm(model(batch[0]), dim=(1, 2)).mean() * torch.ones(1)[0]

    for network in (net, Apart):
        with pytest.warns(UserWarning, match="halves' losses .*weighted by their numbers of samp"):
            train(Task(network, (X, Y), valid=(X, Y), step=root), ONE.replace(steps=1))
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            train(Task(network, (X, Y), valid=(X, Y), step=plain), ONE.replace(steps=1))


def test_a_weight_outlives_the_folder(tmp_path):
    record = train(task(), ONE, folder=tmp_path / "run")
    again = Record.load(tmp_path / "run")
    assert [e.weight for e in again.evaluations] == [e.weight for e in record.evaluations]
    assert math.isfinite(again.evaluations[-1].weight)


def two_heads(o: Tensor, t: Tensor) -> Tensor:
    """The sum of two means, the second one over the labels that are not missing."""
    return F.cross_entropy(o[..., :2], t[:, 0]) + 0.5 * F.cross_entropy(o[..., 2:], t[:, 1])


def labels(rows: int, missing: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    targets = torch.randint(2, (rows, 2), generator=g)
    targets[torch.randperm(rows, generator=g)[:missing], 1] = -100
    return torch.randn(rows, 4, generator=g), targets


@pytest.mark.parametrize("missing", [0, 5, 33, 39])
def test_the_validation_loss_of_two_heads_is_that_of_all_labels(missing):
    x, t = labels(40, missing)
    model = nn.Linear(4, 4)
    task = Task(model, labels(40, 0), valid=(x, t), loss=two_heads)
    whole = two_heads(model(x), t).item()
    found = evaluate(task, model)
    assert found.loss == pytest.approx(whole, rel=1e-6)
    assert mean([found]).loss == pytest.approx(whole, rel=1e-6)
    if missing:  # else the slices' own means are kept
        assert sum(found.parts) / len(found.parts) == pytest.approx(whole, rel=1e-6)
    t[:, 1] = -100
    nothing = Task(model, labels(40, 0), valid=(x, t), loss=two_heads)
    assert math.isnan(evaluate(nothing, model).loss)


def test_a_batch_of_unknown_weight_counts_as_the_ones_beside_it():
    x, t = labels(8, 0)
    for start in (0, 4):  # the batch of unknown weight comes first, or last
        own = t.clone()
        own[start : start + 3, 1] = -100
        model = nn.Linear(4, 4, bias=False)
        batches = DataLoader(TensorDataset(x, own), batch_size=4)
        task = Task(model, batches, valid=(x, t), loss=two_heads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = train(task, ONE.replace(lr=1.0, steps=1, batch_size=4, accumulate=2))
        loss = (two_heads(model(x[:4]), own[:4]) + two_heads(model(x[4:]), own[4:])) / 2
        loss.backward()
        assert record.series["loss"][0] == pytest.approx(loss.item(), rel=1e-6)
        moved = model.weight.detach() - record.model.weight.detach()
        assert torch.allclose(moved, model.weight.grad, rtol=1e-5, atol=1e-7)


def focal(scores, labels):
    """A focal loss over the number of positive targets, as detectors compute it."""
    each = nn.functional.binary_cross_entropy_with_logits(scores[:, 0], labels, reduction="none")
    share = torch.exp(-each)
    return ((1 - share) ** 2 * each).sum() / labels.sum().clamp(min=1)


@pytest.mark.parametrize("positives", [0, 1, 7])
def test_negative_targets_count_in_a_batch_without_positive_ones(positives):
    """Their sum is divided by the bound, and weighs as much: one target more than in one batch."""
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(16) < positives).float()
    model = nn.Linear(3, 1)
    batches = DataLoader(TensorDataset(x, y), batch_size=8)
    task = Task(model, batches, valid=(x, y), loss=focal)
    recipe = ONE.replace(lr=1.0, steps=1, batch_size=8, accumulate=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record = train(task, recipe)
    whole = focal(model(x), y) * max(positives, 1) / (max(positives, 1) + 1)
    whole.backward()
    assert record.series["loss"][0] == pytest.approx(whole.item(), rel=1e-5)
    moved = model.weight.detach() - record.model.weight.detach()
    assert torch.allclose(moved, model.weight.grad, rtol=1e-4, atol=1e-7)
