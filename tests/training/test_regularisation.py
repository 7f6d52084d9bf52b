"""Penalties, dropout, smoothing, early stopping, initialisation, clipping: each is seen to act."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from etude import Recipe, Task, tasks, train, tune
from etude.errors import TaskError
from etude.recipe import Initialisation
from etude.storage.state_tree import flatten, unflatten
from etude.tasks.loss.losses import symbol_cross_entropy
from etude.tasks.models.initialisation import INITIALISATIONS
from etude.training.gradient.clipping import Clipper, at_percentile, clip_adaptive
from etude.training.initialisation import lsuv
from etude.training.regularisation import Penalty, set_dropout, smoothed
from etude.training.request import AdvanceRequest
from etude.training.run import Run

BASE = {"optimizer": "sgd", "lr": 0.1, "steps": 20, "batch_size": 16, "schedule": "constant()"}


def labelled(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] + x[:, 1] > 0).long()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))


def task(**parts: object) -> Task:
    return Task(**{"model": net, "train": labelled(), "loss": F.cross_entropy, **parts})


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim > 1])


# ---- penalties ---------------------------------------------------------------------------


def test_the_penalty_is_its_formula():
    torch.manual_seed(0)
    model = net().eval()
    recipe = Recipe(l1=0.3, l2=0.2, activity=0.7)
    penalty = Penalty(model, recipe)
    x = torch.randn(5, 6)
    with penalty.watching():
        model(x)
    w, a = weights(model), torch.tanh(model[0](x))
    want = 0.3 * w.abs().sum() + 0.1 * w.square().sum() + 0.7 * a.square().mean()
    torch.testing.assert_close(penalty.value(), want)
    assert not any(m._forward_hooks for m in model.modules())
    assert not Penalty(model, Recipe())


def test_l2_is_the_weight_decay_of_sgd():
    def linear() -> nn.Module:
        return nn.Linear(6, 2, bias=False)

    one = train(task(model=linear), Recipe(**BASE, l2=0.05), evaluations=1)
    decay = {**BASE, "optimizer": {"name": "sgd", "weight_decay": 0.05}}
    other = train(task(model=linear), Recipe(**decay), evaluations=1)
    torch.testing.assert_close(one.model.weight, other.model.weight)


def test_l1_drives_weights_to_nothing_and_l2_shrinks_them():
    x = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    sparse = Task(lambda: nn.Linear(10, 1), (x, x[:, :2].sum(1, keepdim=True)), loss=F.mse_loss)
    recipe = Recipe(optimizer="sgd", lr=0.05, steps=400, batch_size=32)
    plain, one, two = (
        train(sparse, recipe.replace(**fields), evaluations=1).model.weight.detach()[0]
        for fields in ({}, {"l1": 0.2}, {"l2": 0.5})
    )
    assert one[2:].abs().max() < 0.01 < 0.7 < one[:2].min()
    # The optimum of E(wx - x)² + (l2/2) w² is w = 2 / (2 + l2).
    assert two[:2].mean() == pytest.approx(2 / 2.5, abs=0.05)
    assert plain[:2].mean() == pytest.approx(1, abs=0.02)


def test_activity_makes_activations_smaller():
    def size(**fields: float) -> float:
        model = train(task(), Recipe(**{**BASE, "steps": 100, **fields}), evaluations=1).model
        return model[:2](labelled()[0]).square().mean().item()

    assert size(activity=1.0) < 0.5 * size()


def test_recurrent_outputs_are_activations():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(6, 4, batch_first=True)

        def forward(self, x):
            return self.gru(x)[0]

    model = Net()
    penalty = Penalty(model, Recipe(activity=2.0))
    x = torch.randn(3, 5, 6)
    with penalty.watching():
        out = model(x)
    torch.testing.assert_close(penalty.value(), 2 * out.square().mean())


def test_the_record_keeps_loss_and_penalty_apart():
    record = train(task(), Recipe(**BASE, l2=0.1, accumulate=2), evaluations=1)
    assert (record.series["penalty"] > 0).all()
    plain = train(task(), Recipe(**BASE, accumulate=2), evaluations=1)
    assert record.series["loss"][0] == plain.series["loss"][0]
    assert "penalty" not in plain.series
    start = Run(task(), Recipe(**BASE)).model
    assert record.series["penalty"][0] == pytest.approx(
        0.05 * weights(start).square().sum().item(), rel=1e-5
    )


def test_a_penalty_without_an_activation_to_watch_is_refused():
    with pytest.raises(TaskError, match=r"activity=0\.1: the model has no activation module"):
        train(task(model=lambda: nn.Linear(6, 2)), Recipe(**BASE, activity=0.1))


# ---- dropout and smoothing ---------------------------------------------------------------


def test_dropout_is_set_everywhere():
    model = nn.ModuleList([nn.Dropout(0.1), nn.LSTM(2, 2, num_layers=2), nn.Dropout2d(0.3)])
    model.append(nn.MultiheadAttention(4, 2))
    set_dropout(model, 0.5)
    assert [model[0].p, model[1].dropout, model[2].p, model[3].dropout] == [0.5] * 4
    with pytest.raises(TaskError, match=r"dropout=0\.5: the model has no dropout to set; build"):
        set_dropout(nn.LSTM(2, 2), 0.5)
    assert train(task(), Recipe(**BASE, dropout=0.0), evaluations=1).model[2].p == 0


@given(st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_smoothing_is_its_formula(share, seed):
    torch.manual_seed(seed)
    scores, labels = torch.randn(7, 4), torch.randint(0, 4, (7,))
    logs = scores.log_softmax(1)
    want = -(1 - share) * logs[torch.arange(7), labels].mean() - share * logs.mean()
    for loss in (
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        functools.partial(F.cross_entropy, reduction="mean"),
    ):
        smooth = smoothed(task(loss=loss), share).loss
        torch.testing.assert_close(smooth(scores, labels), want)
    letters = smoothed(task(loss=symbol_cross_entropy), share).loss
    torch.testing.assert_close(letters(scores[None], labels[None]), want)


def test_smoothing_acts_on_training_and_not_on_what_is_judged():
    fields = {**BASE, "steps": 300}
    sharp, smooth = (
        train(task(), Recipe(**fields, label_smoothing=s), evaluations=1) for s in (None, 0.2)
    )
    x = labelled()[0]
    sure = [r.model.eval()(x).softmax(1).max(1).values.mean().item() for r in (sharp, smooth)]
    assert sure[1] < sure[0] - 0.05
    assert sharp.evaluations[0].loss == smooth.evaluations[0].loss
    loss = nn.CrossEntropyLoss()
    smoothed(task(loss=loss), 0.2)
    assert loss.label_smoothing == 0


def test_smoothing_needs_a_cross_entropy():
    x = torch.randn(40, 2)
    squares = Task(lambda: nn.Linear(2, 1), (x, x[:, :1]), loss=F.mse_loss)
    with pytest.raises(TaskError, match=r"label_smoothing=0\.1 needs a cross-entropy.* mse_loss"):
        train(squares, Recipe(label_smoothing=0.1, batch_size=8))
    own = Task(lambda: nn.Linear(2, 1), (x,), step=lambda m, b: m(b[0]).square().mean())
    with pytest.raises(TaskError, match=r"the task's loss is step="):
        train(own, Recipe(label_smoothing=0.1, batch_size=8))


# ---- early stopping ----------------------------------------------------------------------


def overfitting() -> Task:
    x, y = labelled()
    noise = torch.randint(0, 2, (24,), generator=torch.Generator().manual_seed(1))
    return Task(
        lambda: nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 2)),
        (x[:24], noise),
        valid=(x[24:], y[24:]),
        loss=F.cross_entropy,
    )


FAST = {"optimizer": "adam", "lr": 0.05, "steps": 200, "batch_size": 24, "schedule": "constant()"}


def test_it_stops_when_patience_is_out_and_returns_the_best():
    whole = train(overfitting(), Recipe(**FAST), evaluations=40)
    record = train(overfitting(), Recipe(**FAST, early_stopping=3), evaluations=40)
    seen = list(whole.evaluations)
    best = min(range(len(seen)), key=lambda i: (seen[i].loss, i))
    first = next(
        i for i in range(len(seen)) if i - int(np.argmin([e.loss for e in seen[: i + 1]])) >= 3
    )
    assert best <= first
    assert record.status == "finished"
    assert record.cost.steps == seen[first].step < 200
    assert "stopped early after update" in record.reason
    stopped = min(e.loss for e in seen[: first + 1])
    assert record.valid_loss == stopped
    judged = F.cross_entropy(
        record.model(overfitting().valid.tensors[0]), overfitting().valid.tensors[1]
    )
    assert judged.item() == pytest.approx(stopped, rel=1e-4)


def test_the_best_weights_are_kept_also_at_the_end():
    record = train(overfitting(), Recipe(**FAST, early_stopping=100), evaluations=40)
    whole = train(overfitting(), Recipe(**FAST), evaluations=40)
    assert record.cost.steps == 200
    assert record.valid_loss == min(e.loss for e in whole.evaluations) < whole.valid_loss
    assert "had the best validation loss, and its weights were kept" in record.reason


@pytest.mark.parametrize("optimizer", ["adam", "schedulefree_adamw"])
def test_early_stopping_is_resumed_to_the_bit(optimizer):
    if optimizer != "adam":
        pytest.importorskip("schedulefree")
    recipe = Recipe(**{**FAST, "optimizer": optimizer}, early_stopping=3)
    whole = Run(overfitting(), recipe)
    quarters = whole.state.evenly_spaced(40)
    whole.advance(AdvanceRequest(evaluation_steps=quarters))
    assert whole.step < 200
    for at in (3, whole.step // 2, whole.step - 1, whole.step):
        first = Run(overfitting(), recipe)
        first.advance(AdvanceRequest(at, evaluation_steps=quarters))
        second = Run(overfitting(), recipe)
        second.load_state_dict(unflatten(*flatten(first.state_dict())))
        second.advance(AdvanceRequest(evaluation_steps=quarters))
        assert second.evaluations == whole.evaluations
        for a, b in zip(second.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(a, b)


def test_the_tuner_takes_a_run_that_stopped_early_as_it_stands():
    recipe = Recipe(**{**FAST, "steps": 160}, early_stopping=2)
    best = tune(overfitting(), recipe, budget=3.0, progress=False)
    assert best.cost <= 3.0
    assert best.loss < best.untrained.loss
    assert any(t.record.cost.steps not in (40, 80, 120, 160) for t in best.trials)


# ---- initialisation ----------------------------------------------------------------------


def test_the_recipe_knows_every_initialisation():
    assert set(Initialisation.__args__) == {*INITIALISATIONS, "lsuv"}


@pytest.mark.parametrize("name", Initialisation.__args__)
def test_initialisations_are_drawn_from_the_seed(name):
    one, again, other = (
        Run(task(), Recipe(initialisation=name, seed=seed)).model for seed in (0, 0, 1)
    )
    plain = Run(task(), Recipe()).model
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))
    assert torch.equal(weights(one), weights(plain)) == (name == "default")


def test_a_given_network_is_drawn_anew_and_left_alone():
    network = net()
    before = weights(network).clone()
    run = Run(task(model=network), Recipe(initialisation="orthogonal"))
    assert torch.equal(weights(network), before)
    gram = run.model[0].weight.T @ run.model[0].weight
    torch.testing.assert_close(gram, torch.eye(6), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["digits-deep-mlp", "digits-cnn", "digits-transformer"])
def test_lsuv_gives_every_layer_unit_variance(name):
    bundled = tasks.load(name)
    run = Run(bundled, Recipe(initialisation="lsuv"))
    batch = bundled.train.take(torch.arange(run.batch_size))
    variances = []
    hooks = [
        m.register_forward_hook(lambda m, i, o: variances.append(o.var().item()))
        for m in run.model.modules()
        if isinstance(m, (nn.Linear, nn.Conv2d))
    ]
    torch.manual_seed(0)
    run.model.eval()
    lsuv(run.model, bundled, batch)
    variances.clear()
    with torch.no_grad():
        bundled.forward(run.model, batch)
    assert len(hooks) == len(variances) >= 3
    assert variances == pytest.approx([1.0] * len(variances), abs=0.05)


def test_deep_networks_learn_with_lsuv_where_small_weights_do_not():
    deep = tasks.load("digits-deep-mlp", depth=8)
    recipe = Recipe(optimizer={"name": "sgd", "momentum": 0.9}, lr=0.03, steps=150, batch_size=64)
    small, scaled = (
        train(deep, recipe.replace(initialisation=name), evaluations=1)
        for name in ("normal", "lsuv")
    )
    assert scaled.valid_metric > 0.8 > 0.3 > small.valid_metric


# ---- clipping ----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=30), st.floats(0, 100))
def test_percentiles_are_numpys(values, percentile):
    want = np.percentile(values, percentile)
    assert at_percentile(sorted(values), percentile) == pytest.approx(want, rel=1e-9, abs=1e-9)


def test_the_percentile_is_of_the_runs_own_history():
    recipe = Recipe(**BASE, clip_percentile=30)
    used = []
    probe = {
        "used": lambda run: (
            used.append(nn.utils.get_total_norm([p.grad for p in run.parameters]).item()) or 0.0
        )
    }
    record = train(task(), recipe, evaluations=1, probes=probe)
    norms = record.series["grad_norm"]
    for t, norm in enumerate(norms):
        bound = np.percentile(norms[: t + 1], 30)
        assert used[t] == pytest.approx(min(norm, bound), rel=1e-4)
    assert (np.array(used) < norms * 0.999).sum() >= 8


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_percentile": 40},
        {"clip_percentile": 40, "clip_norm": 0.3},
        {"clip_adaptive": 0.01},
        {"l1": 1e-3, "activity": 0.1, "label_smoothing": 0.1, "dropout": 0.3},
    ],
)
def test_clipping_and_penalties_are_resumed_to_the_bit(fields):
    recipe = Recipe(**BASE, **fields)
    whole = Run(task(), recipe)
    whole.advance(AdvanceRequest(evaluation_steps={20}))
    for at in (1, 9, 19):
        first = Run(task(), recipe)
        first.advance(AdvanceRequest(at, evaluation_steps={20}))
        second = Run(task(), recipe)
        second.load_state_dict(unflatten(*flatten(first.state_dict())))
        second.advance(AdvanceRequest(evaluation_steps={20}))
        assert torch.equal(weights(second.model), weights(whole.model))
        assert second.series == whole.series


@given(st.integers(0, 2**31), st.floats(1e-3, 1.0))
def test_adaptive_clipping_bounds_each_unit_and_spares_the_small(seed, bound):
    torch.manual_seed(seed)
    for shape in ((4, 3), (5,), (2, 3, 2, 2), (3, 0 + 1)):
        w = nn.Parameter(torch.randn(shape))
        g = torch.randn(shape) * torch.rand(shape) * 3
        w.grad = g.clone()
        clip_adaptive([w], bound)
        rows = (lambda t: t.flatten(1)) if w.ndim > 1 else (lambda t: t[None])
        allowed = bound * rows(w.detach()).norm(dim=1).clamp_min(1e-3)
        before, after = rows(g).norm(dim=1), rows(w.grad).norm(dim=1)
        torch.testing.assert_close(after, torch.minimum(before, allowed), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(
            F.normalize(rows(w.grad), dim=1), F.normalize(rows(g), dim=1), rtol=1e-3, atol=1e-5
        )


def test_norm_and_value_are_torchs():
    for fields in (
        {"clip_norm": 0.37},
        {"clip_value": 0.02},
        {"clip_norm": 0.5, "clip_value": 0.1},
    ):
        torch.manual_seed(0)
        ours = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(5))]
        theirs = [nn.Parameter(p.detach().clone()) for p in ours]
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        norm = Clipper(ours, Recipe(**fields)).clip([])
        if "clip_norm" in fields:
            assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs, fields["clip_norm"]))
        else:
            assert norm is None
        if "clip_value" in fields:
            nn.utils.clip_grad_value_(theirs, fields["clip_value"])
        for p, q in zip(ours, theirs, strict=True):
            assert torch.equal(p.grad, q.grad)


def test_a_gradient_that_is_not_finite_does_not_spoil_the_history():
    w = nn.Parameter(torch.ones(2))
    clipper = Clipper([w], Recipe(clip_percentile=50))
    for norm in (1.0, math.inf, 3.0):
        w.grad = torch.tensor([norm, 0.0])
        clipper.clip([1.0, math.inf][: [1.0, math.inf, 3.0].index(norm)])
    assert w.grad[0].item() == pytest.approx(2.0, rel=1e-5)
