"""The mean of a trial's weights: what it is, and that the run does not notice it."""

import copy
import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import etude
from etude import tasks
from etude.engines import LoopEngine, PoolEngine, VmapEngine
from etude.training.evaluation.evaluate import evaluate
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.trials.weight_mean import WeightMean, weight_mean

STEPS = 60


def network() -> nn.Module:
    """A network with batch statistics, dropout and a frozen layer."""
    layers = [nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2)]
    layers[0].bias.requires_grad_(False)
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def task() -> etude.Task:
    """Two classes of 400 samples."""
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > x[:, 1]).long()
    return etude.Task(network, (x, y), loss=nn.functional.cross_entropy, metric="accuracy")


def recipe(**changes: object) -> etude.Recipe:
    """A recipe of 60 updates."""
    return etude.Recipe(**{"lr": 0.05, "steps": STEPS, "batch_size": 32, **changes})


def begun(task: etude.Task, window: float = 0.02, **changes: object) -> tuple[Run, WeightMean]:
    """Return a run and the observer of its mean."""
    mean = WeightMean(STEPS, window)
    return Run(task, recipe(**changes), observers=[mean]), mean


def test_the_mean_is_the_recursion_that_the_docstring_states(task):
    run, mean = begun(task)
    expected: list[torch.Tensor] = []
    samples = 0

    def follow(state, step):
        nonlocal samples
        if step <= 45 - mean.span or (step - 1) % mean.every:
            return
        samples += 1
        weights = [w.detach().double() for w in state.parameters]
        if not expected:
            expected.extend(torch.zeros_like(w) for w in weights)
        part = max(1 / samples, 1 / mean.samples)
        for m, w in zip(expected, weights, strict=True):
            m += (w - m) * part

    run.advance(AdvanceRequest(44, on_step=follow))
    assert (mean.every, mean.samples, mean.span) == (1, 1.2, 6)
    assert (mean.target, mean.count) == (45, samples) == (45, 5)
    for m, value in zip(expected, mean.mean, strict=True):
        torch.testing.assert_close(value.double(), m, rtol=1e-5, atol=1e-6)


def test_the_run_has_the_same_bits_with_and_without_it(task):
    request = AdvanceRequest(None, [7, 22, 30, 41, 45, STEPS])
    plain = Run(task, recipe())
    plain.advance(request)
    watched, mean = begun(task)
    watched.advance(request)
    assert watched.evaluations == plain.evaluations
    assert watched.series["loss"] == plain.series["loss"]
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    assert [e.step for e in mean.evaluations] == [22, 30, 45]
    assert mean.mean == []


def test_batch_statistics_are_those_of_the_mean_itself(task):
    run, mean = begun(task)
    run.advance(30)
    averaged = list(mean.mean)
    run.evaluate()
    model = network()
    model.load_state_dict(run.model.state_dict())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and dict(run.model.named_parameters())[name].requires_grad:
                index = [id(w) for w in run.parameters].index(
                    id(dict(run.model.named_parameters())[name])
                )
                parameter.copy_(averaged[index])
    stale = evaluate(task, model, step=30)
    norm = next(m for m in model if isinstance(m, nn.BatchNorm1d))
    norm.reset_running_stats()
    norm.momentum = None
    model.train()
    model[3].eval()
    with torch.no_grad():
        stream = task.train.stream(32, 0, etude.tasks.sources.data.Cursor())
        for _ in range(min(20, task.train.steps_per_epoch(32))):
            model(next(stream)[0])
    renewed = evaluate(task, model, step=30)
    found = mean.at(30)
    assert found is not None
    assert found.loss == pytest.approx(renewed.loss, rel=1e-5)
    assert found.loss != pytest.approx(stale.loss, rel=1e-5)


def test_a_paused_run_goes_on_to_the_bit(task):
    request = AdvanceRequest(None, [30, 45, STEPS])
    whole, expected = begun(task)
    whole.advance(request)
    first, _ = begun(task)
    first.advance(AdvanceRequest(41, [30]))
    assert first.observers.listed[0].count
    second, mean = begun(task)
    second.load_state_dict(first.state_dict())
    second.advance(request)
    assert mean.evaluations == expected.evaluations
    assert [e.step for e in mean.evaluations] == [30, 45]


def test_loop_and_pool_give_the_same_bits_and_a_stack_the_same_numbers():
    task = tasks.get("digits-mlp", depth=1, width=16)
    found = {}
    for engine in (LoopEngine(), PoolEngine(), VmapEngine()):
        runs = [
            Run(task, recipe(lr=lr), device="cpu", observers=[WeightMean(STEPS)])
            for lr in (0.01, 0.1)
        ]
        engine.advance(runs, AdvanceRequest(45, [30, 45]))
        engine.close()
        found[engine.name] = [run.observers.listed[0].evaluations for run in runs]
    assert found["loop"] == found["pool"]
    for rows in zip(found["loop"], found["vmap"], strict=True):
        for own, stacked in zip(*rows, strict=True):
            assert own.step == stacked.step
            assert own.loss == pytest.approx(stacked.loss, rel=1e-4)


def test_the_mean_shows_the_end_where_noise_hides_it():
    """On a noisy quadratic the higher rate looks worse at its peak and is no worse in the mean."""
    noise = torch.randn(2048, 64, generator=torch.Generator().manual_seed(1))

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.full((64,), 3.0))

        def forward(self, x):
            return self.w - x

    def loss(distance, _):
        return distance.square().sum(1).mean()

    task = etude.Task(
        Point,
        (noise, torch.zeros(2048)),
        valid=(torch.zeros(64, 64), torch.zeros(64)),
        loss=loss,
    )
    scores = {}
    for lr in (0.05, 0.4):
        given = etude.Recipe(
            lr=lr, steps=400, batch_size=8, optimizer={"name": "sgd", "momentum": 0.0}
        )
        mean = WeightMean(400, 0.1)
        run = Run(task, given, observers=[mean])
        run.advance(AdvanceRequest(200, [200]))
        seen = mean.at(200)
        assert seen is not None
        scores[lr] = run.evaluations[-1].loss, seen.loss
    assert scores[0.4][0] > 3 * scores[0.05][0]
    assert scores[0.4][1] < 3 * scores[0.05][1]
    assert all(averaged < raw for raw, averaged in scores.values())


def test_half_precision_weights_are_averaged_in_single():
    mean = WeightMean(100)
    layer = nn.Linear(2, 1).to(torch.float16)

    class State:
        step = 37
        parameters: ClassVar = list(layer.parameters())

    with torch.no_grad():
        mean.on_update(State())
    assert {m.dtype for m in mean.mean} == {torch.float32}


def test_an_optimizer_that_averages_by_itself_has_none(task):
    assert weight_mean(task, recipe(optimizer="schedulefree_adamw", schedule="constant()")) == []
    (mean,) = weight_mean(task, recipe())
    assert mean.every == 1
    assert math.isclose(mean.samples, 0.02 * STEPS)
    assert mean.steps == (22, 30, 37, 45)


@given(st.integers(1, 400), st.sampled_from([0.02, 0.1, 0.5]))
def test_the_weights_are_asked_for_exactly_where_they_count(length, window):
    mean = WeightMean(length, window)
    counts = []
    for update in range(0, length, mean.every):
        target = next((step for step in mean.steps if step >= update + 1), None)
        if target is not None and update + 1 > target - mean.span:
            counts.append(update)
    for update in range(length):
        assert mean.next_due(update) == next((u for u in counts if u >= update), None)


@pytest.mark.parametrize("steps", [16, 40, 50, 51])
@pytest.mark.parametrize("normalised", [False, True])
def test_a_mean_of_one_update_is_not_evaluated_again(steps, normalised, monkeypatch):
    from etude.trials import weight_mean as module

    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > x[:, 1]).long()

    def plain() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))

    of = etude.Task(network if normalised else plain, (x, y), loss=nn.functional.cross_entropy)
    calls: list[int] = []

    def counted(*args: object, **named: object) -> object:
        calls.append(1)
        return evaluate(*args, **named)

    monkeypatch.setattr(module, "evaluate", counted)
    kept, means = [], []
    for shortcut in (True, False):
        mean = WeightMean(steps)
        if not shortcut:
            monkeypatch.setattr(mean, "_is_the_run", lambda state: False)
        before = len(calls)
        run = Run(of, recipe(steps=steps), observers=[mean])
        run.advance(AdvanceRequest(None, [*mean.steps, steps]))
        kept.append(len(calls) - before)
        means.append(mean.evaluations)
    assert means[0] == means[1]
    assert kept[1] == len(set(mean.steps))
    assert kept[0] == (0 if steps <= 50 and not normalised else kept[1])


def test_what_is_sent_to_another_process_is_no_memory_of_a_gpu(task):
    class There:
        def cpu(self) -> str:
            return "here"

    mean = begun(task)[1]
    mean.mean = [There(), There()]
    assert copy.deepcopy(mean).mean == ["here", "here"]
    assert all(isinstance(one, There) for one in mean.mean)
