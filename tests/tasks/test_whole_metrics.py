"""Metrics of the whole validation set, their direction, and what is no number."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as peer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etude import Recipe, Task, train, tune
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.tasks.collect import join, pseudo_values
from etude.tasks.direction import direction_of
from etude.tasks.metrics import METRICS, as_metric, mean_metric, topk
from etude.training.evaluation.evaluate import evaluate
from etude.trials.score import goal_for, judged_by

counts, seeds = st.integers(8, 60), st.integers(0, 9_999)


def measured(metric: Any, output: Tensor, target: Tensor, size: int = 7) -> float:
    """The metric of slices of a size."""
    collector = as_metric(metric).collector()
    for piece in zip(output.split(size), target.split(size), strict=True):
        collector.add(*piece)
    return collector.result()[0]


def drawn(count: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores on a coarse grid, so that some are equal, and labels of every class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count,), generator=g)])
    scores = torch.randn(len(labels), classes, generator=g)
    return (4 * scores).round() / 4 + nn.functional.one_hot(labels, classes), labels


# ---- parity with scikit-learn ------------------------------------------------------------


@given(counts, st.integers(2, 5), seeds)
def test_f1_and_balanced_accuracy_are_scikit_learns(count, classes, seed):
    scores, labels = drawn(count, classes, seed)
    guess = scores.argmax(1)
    average = "binary" if classes == 2 else "macro"
    f1 = peer.f1_score(labels, guess, average=average, zero_division=0)
    assert measured("f1", scores, labels) == pytest.approx(f1)
    balanced = peer.balanced_accuracy_score(labels, guess)
    assert measured("balanced_accuracy", scores, labels) == pytest.approx(balanced)


@given(counts, seeds)
def test_two_classes_by_one_logit_are_those_by_two(count, seed):
    scores, labels = drawn(count, 2, seed)
    logit = scores[:, 1] - scores[:, 0]
    for name in ("f1", "balanced_accuracy", "auroc", "average_precision"):
        expected = measured(name, scores - 0.125 * torch.tensor([0.0, 1.0]), labels)
        for one in (logit - 0.125, (logit - 0.125)[:, None]):
            assert measured(name, one, labels.float()) == pytest.approx(expected)


@given(counts, seeds)
def test_areas_of_two_classes_are_scikit_learns(count, seed):
    scores, labels = drawn(count, 2, seed)
    score = (scores[:, 1] - scores[:, 0]).double().numpy()
    assert measured("auroc", scores, labels) == pytest.approx(peer.roc_auc_score(labels, score))
    average = peer.average_precision_score(labels, score)
    assert measured("average_precision", scores, labels) == pytest.approx(average)


@given(counts, st.integers(3, 5), seeds)
def test_areas_of_many_classes_are_scikit_learns(count, classes, seed):
    scores, labels = drawn(count, classes, seed)
    shares = scores.double().softmax(1)
    area = peer.roc_auc_score(labels, shares.numpy(), multi_class="ovr", average="macro")
    assert measured("auroc", scores, labels) == pytest.approx(area)
    assert measured("auroc", shares, labels) == pytest.approx(area)  # probabilities already
    average = peer.average_precision_score(labels, shares.numpy(), average="macro")
    assert measured("average_precision", scores, labels) == pytest.approx(average)


@given(counts, seeds)
def test_labels_of_their_own_are_scikit_learns(count, seed):
    g = torch.Generator().manual_seed(seed)
    target = (torch.rand(count, 3, generator=g) < 0.4).long()
    target[0], target[1] = 0, 1
    scores = torch.randn(count, 3, generator=g) + target
    guess = (scores > 0).long()
    f1 = peer.f1_score(target, guess, average="macro", zero_division=0)
    assert measured("f1", scores, target.float()) == pytest.approx(f1)
    area = peer.roc_auc_score(target, scores, average="macro")
    assert measured("auroc", scores, target) == pytest.approx(area)
    average = peer.average_precision_score(target, scores, average="macro")
    assert measured("average_precision", scores, target) == pytest.approx(average)


@given(counts, seeds, st.integers(1, 4))
def test_top_k_is_scikit_learns(count, seed, k):
    g = torch.Generator().manual_seed(seed)
    scores, labels = torch.randn(count, 5, generator=g), torch.randint(5, (count,), generator=g)
    expected = peer.top_k_accuracy_score(labels, scores.numpy(), k=k, labels=range(5))
    for metric in (f"top{k}", f"top-{k}", f"top{k}_accuracy", topk(k)):
        assert measured(metric, scores, labels) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["f1", "balanced_accuracy", "auroc", "average_precision", "top2"])
@given(seed=seeds)
@settings(max_examples=10)
def test_padding_has_no_say(name, seed):
    scores, labels = drawn(30, 3, seed)
    expected = measured(name, scores, labels)
    more = torch.cat([scores, torch.randn(6, 3)]), torch.cat([labels, torch.full((6,), -100)])
    assert measured(name, *more) == pytest.approx(expected)
    length = len(labels) // 3 * 3  # the same as sequences, and with the classes first
    rows = scores[:length].reshape(-1, 3, 3), labels[:length].reshape(-1, 3)
    flat = measured(name, scores[:length], labels[:length])
    assert measured(name, *rows) == pytest.approx(flat, nan_ok=True)


# ---- called once -------------------------------------------------------------------------


def classified(**more: Any) -> Task:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=g)
    y = (x[:, 0] + 0.5 * torch.randn(300, generator=g) > 1.2).long()
    data = (x[:200], y[:200])
    return Task(lambda: nn.Linear(4, 2), data, (x[200:], y[200:]), cross_entropy, **more)


SHORT = Recipe(lr=0.05, steps=32, batch_size=32)


def test_a_function_is_called_once_on_everything():
    seen = []

    def own(output: Tensor, target: Tensor) -> float:
        seen.append((output.shape, target.shape))
        return peer.roc_auc_score(target, output.softmax(1)[:, 1])

    result = evaluate(classified(metric=own), model := nn.Linear(4, 2))
    assert seen == [((100, 2), (100,))]
    x, y = classified().valid.tensors
    assert result.metric == pytest.approx(peer.roc_auc_score(y, model(x).detach().softmax(1)[:, 1]))
    assert result.metric_parts == ()
    assert evaluate(classified(metric="auroc"), model).metric == pytest.approx(result.metric)


def test_outputs_of_any_shape_are_put_together():
    parts = [{"a": torch.full((n, 2), float(n)), "b": (torch.zeros(n), ["x"] * n)} for n in (1, 3)]
    whole = join(parts)
    assert whole["a"].shape == (4, 2)
    assert whole["b"][0].shape == (4,)
    assert whole["b"][1] == ["x"] * 4
    ragged = as_metric(lambda o, t: 0.0).collector()
    for length in (2, 3):
        ragged.add(torch.zeros(1, length), torch.zeros(1))
    with pytest.raises(TaskError, match=r"cannot be concatenated .*give mean_metric"):
        ragged.result()


class Counting:
    """What an object of torchmetrics looks like from outside."""

    higher_is_better = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.hits = self.count = 0

    def reset(self) -> None:
        self.hits = self.count = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        self.hits += int((output.argmax(1) == target).sum())
        self.count += len(target)

    def compute(self) -> Tensor:
        return torch.tensor(self.hits / self.count)


def test_an_object_that_is_updated_is_computed_once_and_left_as_it_was():
    own = Counting()
    own.hits = 7
    record = train(classified(metric=own), SHORT)
    twin = train(classified(metric="accuracy"), SHORT)
    assert record.metric == "Counting"
    assert record.valid_metric == pytest.approx(twin.valid_metric)
    assert own.hits == 7
    assert goal_for(classified(metric=own), "metric").maximize


def test_torchmetrics_gives_what_it_gives_on_everything():
    peers = pytest.importorskip("torchmetrics.classification")
    for metric in (peers.MulticlassAUROC(2), peers.MulticlassF1Score(2, average="macro")):
        of = classified(metric=metric)
        model = nn.Linear(4, 2)
        x, y = of.valid.tensors
        fresh = metric.clone()
        for piece in zip(x.split(7), y.split(7), strict=True):  # the slices of an evaluation
            fresh.update(model(piece[0]), piece[1])
        assert evaluate(of, model).metric == pytest.approx(float(fresh.compute()))
        assert of.metric.maximize is True


# ---- noise -------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20))
def test_the_pseudo_values_of_a_mean_are_its_values(values):
    whole = sum(values) / len(values)
    without = [(sum(values) - v) / (len(values) - 1) for v in values]
    assert pseudo_values(whole, without) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("metric", ["auroc", "f1", Counting()])
def test_tuning_by_a_metric_of_everything_knows_its_noise(metric):
    of = classified(metric=metric)
    judged = judged_by(of, goal_for(of, "metric"))
    result = evaluate(judged, nn.Linear(4, 2))
    assert len(result.metric_parts) in (15, 16)
    assert all(map(math.isfinite, result.metric_parts))
    assert judged_by(of, goal_for(of, "loss")) is of


# ---- the direction -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", True), ("val_acc", True), ("MulticlassAUROC", True), ("f1_score", True),
        ("meanIoU", None), ("mean_iou", True), ("BLEU", True), ("top5", True),
        ("loss", False), ("rmse", False), ("meanAbsoluteError", False), ("perplexity", False),
        ("<lambda>", None), ("score", None), ("accuracy_loss", None), ("one_minus_accuracy", None),
    ],
)  # fmt: skip
def test_the_direction_is_that_of_the_names_words(name, expected):
    assert direction_of(name) is expected


BOTH = r"maximize=True if larger .*maximize=False if smaller .*Task\(.*mean_metric\(.*tune\("


def test_without_a_direction_a_metric_is_reported_and_not_tuned_by():
    accuracy = lambda o, t: (o.argmax(1) == t).float().mean()  # noqa: E731
    of = classified(metric=accuracy)
    assert 0 <= train(of, SHORT).valid_metric <= 1
    with pytest.raises(BadValueError, match=BOTH):
        tune(of, SHORT, 1.5, objective="metric", progress=False)
    for given_ in (classified(metric=accuracy, maximize=True), of):
        assert goal_for(given_, "metric", True).maximize
    assert goal_for(classified(metric=accuracy, maximize=True), "metric").maximize
    assert not goal_for(
        classified(metric=mean_metric("x", accuracy, maximize=False)), "metric"
    ).maximize
    with pytest.raises(BadTypeError, match="maximize='up': give True, False or None"):
        classified(metric=accuracy, maximize="up")


def test_a_function_whose_name_says_it_is_tuned_by():
    def accuracy(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).float().mean()

    assert goal_for(classified(metric=accuracy), "accuracy").maximize
    best = tune(classified(metric=accuracy), SHORT, 1.5, objective="metric", progress=False)
    assert best.metric > 0.85


# ---- what is no number -------------------------------------------------------------------


def one_class(**more: Any) -> Task:
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    return Task(lambda: nn.Linear(4, 2), (x, y), (x[y == 1], y[y == 1]), cross_entropy, **more)


def test_a_metric_that_is_nan_is_named_and_no_fault_of_the_rate():
    with pytest.warns(
        UserWarning, match=r"'auroc' is nan on .*: its targets hold one class only, 1"
    ):
        record = train(one_class(metric="auroc"), SHORT)
    assert record.status == "finished"
    assert math.isnan(record.valid_metric)
    with (
        pytest.warns(UserWarning, match="'auroc' is nan"),
        pytest.raises(
            TaskError, match=r"'auroc' is nan .* at every rate .*the rate is not the cause"
        ),
    ):
        tune(one_class(metric="auroc"), SHORT, 1.5, objective="metric", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert (
            tune(one_class(metric="auroc"), SHORT, 1.5, progress=False).outcome != "nothing trains"
        )


def test_names_that_cannot_be_meant_are_refused():
    scores, labels = drawn(20, 3, 0)
    with pytest.raises(TaskError, match="'top5' of 3 classes is 1 for every model"):
        measured("top5", scores, labels)
    with pytest.raises(TaskError, match="'balanced_accuracy' needs one class per target"):
        measured("balanced_accuracy", scores, (scores > 0).float())
    with pytest.raises(TaskError, match=r"'f1' cannot compare .*\(5, 3\).*\(4,\)"):
        METRICS["f1"].collector().add(torch.zeros(5, 3), torch.zeros(4))
    with pytest.raises(BadTypeError, match="got the class Counting"):
        as_metric(Counting)
    with pytest.raises(TaskError, match=r"returned a tensor of shape \(2,\): return one number"):
        train(classified(metric=lambda o, t: torch.zeros(2)), SHORT)
    with pytest.raises(
        TaskError, match=r"'Counting'.* needs the model's output, which step= does not return"
    ):
        Task(nn.Linear(1, 1), np.zeros((8, 1)), step=lambda m, b: m(b[0]).mean(), metric=Counting())


class Held(nn.Module):
    """A metric with a state in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def reset(self) -> None:
        pass

    def update(self, output: dict[str, Tensor], target: Tensor) -> None:
        self.total = self.total + output["scores"].sum()

    def compute(self) -> float:
        return 0.0


def test_the_state_of_a_metric_goes_where_the_outputs_are_whatever_holds_them():
    collector = as_metric(Held()).collector()
    collector.add({"scores": torch.zeros(2, 3, device="meta")}, torch.zeros(2, device="meta"))
    assert collector.metric.total.is_meta
