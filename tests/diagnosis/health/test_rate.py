"""The rate of a run of Etude without units: η/η_c, and its place within the tied range."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

import etude
from etude import Recipe, Task, WatchObserver
from etude.diagnosis.health.history_tree import MOST_ROWS, from_plain, to_plain
from etude.diagnosis.health.rate_said import critical_said, place_said, tied_of
from etude.diagnosis.health.read import health_of
from etude.diagnosis.health.tuned_before import tied_in
from etude.diagnosis.history import History, RunQuantity
from etude.diagnosis.watching.curvature import WithinShare
from etude.errors import BadValueError, StorageError, TaskError
from etude.report import health
from etude.training.own_hooks import OwnHooks
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.diagnosis.health.test_watch_observer import RECIPE, TASK, same
from tests.diagnosis.programs import classes
from tests.measure.common import bowl, flat


def over_critical(record) -> tuple[list[int], list[float]]:
    """The updates at which η/η_c was read, and what it was."""
    history = health_of(record).history
    over = history.of_run(RunQuantity.RATE_OVER_CRITICAL)
    known = ~np.isnan(over)
    return history.steps[known].tolist(), over[known].tolist()


# ---- η/η_c ---------------------------------------------------------------------------------------


def test_a_run_without_a_period_is_measured_and_has_the_same_bits():
    for schedule, first in (("constant()", 0), ("warmup(8) >> cosine()", 8)):
        recipe = RECIPE.replace(schedule=schedule)
        record = etude.train(TASK, recipe, watch=True)
        assert same(etude.train(TASK, recipe), record)
        assert over_critical(record)[0][0] == first
        assert "η/η_c" in " ".join(map(str, health.sections(record)[0].parts))


def test_train_reads_what_diagnose_reads():
    task, recipe = bowl(1.0, 5.0), flat("sgd", 0.05, steps=20)
    found = etude.diagnose(task, recipe, progress=False).history
    record = etude.train(task, recipe, watch=WatchObserver(every=1))
    over = found.of_run(RunQuantity.RATE_OVER_CRITICAL)
    expected = over[~np.isnan(over)]
    np.testing.assert_allclose(over_critical(record)[1], expected, rtol=1e-4)  # notes are rounded


def test_a_run_that_goes_on_in_another_process_is_measured_there_and_has_the_same_bits():
    recipe = RECIPE.replace(schedule="constant()")
    plain = etude.train(TASK, recipe)
    first, second = (Run(TASK, recipe, observers=[WatchObserver()]) for _ in range(2))
    steps = first.state.evenly_spaced(recipe.evaluations)
    first.advance(AdvanceRequest(17, steps))
    second.load_state_dict(first.state_dict())
    second.advance(AdvanceRequest(evaluation_steps=steps))
    assert same(plain, second.record())
    read = over_critical(second.record())[0]
    assert read[0] == 0
    assert 17 in read


class Queue(nn.Module):
    """Keeps everything that a network of one's own can: draws, buffers, a moving second network."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.slow = nn.Linear(8, 3), nn.Linear(8, 3)
        self.slow.requires_grad_(requires_grad=False)
        self.register_buffer("seen", torch.zeros(8))
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        self.seen = 0.9 * self.seen + inputs.detach().mean(0)
        with torch.no_grad():
            self.slow.weight.data = 0.9 * self.slow.weight.data + 0.1 * self.line.weight.data
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        return self.line(inputs + 0.1 * self.seen * noise) + self.slow(inputs)


class MovingScale(nn.Module):
    """A loss with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, output, target):
        found = cross_entropy(output, target)
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * found.detach()
        return found / self.scale


@pytest.mark.parametrize("loss", [cross_entropy, MovingScale], ids=["function", "module"])
def test_what_a_network_and_a_loss_keep_is_put_back(loss):
    def task():
        return Task(Queue, classes(128), loss=loss() if isinstance(loss, type) else loss)

    plain = etude.train(task(), RECIPE)
    record = etude.train(task(), RECIPE, watch=WatchObserver(every=1))
    assert same(plain, record)
    assert plain.model.calls == record.model.calls
    assert len(over_critical(record)[0]) >= 6


class Calls(etude.Observer):
    """Counts forward passes in training, and keeps the last output."""

    name = "calls"

    def attached(self, state):
        self.count = getattr(self, "count", 0)
        self.model = state.model
        return self

    def __enter__(self):
        self.handle = self.model.register_forward_hook(self.hear)

    def __exit__(self, *error):
        self.handle.remove()

    def hear(self, module, inputs, output):
        self.count += 1
        self.last = output.detach().square().mean()

    def on_update(self, state):
        return {"count": float(self.count), "last": self.last}


@pytest.mark.parametrize("first", [True, False])
def test_hooks_of_other_observers_are_not_called_by_the_passes_of_the_watch(first):
    plain = etude.train(TASK, RECIPE, observers=[Calls()])
    watching = WatchObserver(every=1)
    both = [watching, Calls()] if first else [Calls(), watching]
    record = etude.train(TASK, RECIPE, observers=both)
    assert same(plain, record)
    assert record.series["calls/count"][-1] == RECIPE.steps
    assert len(over_critical(record)[0]) >= 6


def test_hooks_that_a_model_had_are_called_and_a_hook_that_comes_and_goes_is_left_out_of_it():
    model, calls = nn.Linear(1, 1), []
    model.register_forward_hook(lambda *given: calls.append("own"))
    own = OwnHooks(model)
    model.register_forward_pre_hook(lambda *given: calls.append("other"))
    with own.alone():
        handle = model.register_forward_hook(lambda *given: calls.append("inside"))
        model(torch.ones(1, 1))
        handle.remove()
    assert calls == ["own", "inside"]
    calls.clear()
    model(torch.ones(1, 1))
    assert calls == ["other", "own"]


@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_step_of_ones_own_is_measured_where_that_is_asked_for(wanted):
    def step(model, batch):
        return cross_entropy(model(batch[0]), batch[1])

    task = Task(lambda: nn.Linear(8, 3), classes(128), step=step)
    record = etude.train(task, RECIPE, watch=WatchObserver(every=1, curvature=wanted))
    assert bool(over_critical(record)[0]) == bool(wanted)
    assert same(etude.train(task, RECIPE), record)


def test_batches_are_kept_only_for_updates_that_are_measured():
    kept = []

    def look(state):
        kept.append(state.objective._kept is not None)
        return 0.0

    recipe = RECIPE.replace(schedule="constant()")
    record = etude.train(TASK, recipe, watch=WatchObserver(every=1), probes={"look": look})
    assert np.flatnonzero(kept).tolist() == over_critical(record)[0]
    assert not any(kept[3:4])
    run = Run(TASK, RECIPE)
    with pytest.raises(TaskError, match="were not kept"):
        run.objective.again()


def test_a_run_is_freed_without_the_collector():
    run = Run(TASK, RECIPE, observers=[WatchObserver(every=1)])
    run.advance(AdvanceRequest(3))
    known = weakref.ref(run.state)
    gc.disable()
    try:
        del run
        assert known() is None
    finally:
        gc.enable()


@given(
    st.integers(0, 300),
    st.sampled_from([0.001, 0.005, 0.1]),
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.0, 50)), min_size=1, max_size=400),
)
def test_measuring_costs_its_share_and_one_measurement_more(first, share, updates):
    times, spent, time, largest, measured = WithinShare(first, share), 0.0, 0.0, 0.0, []
    for update, (seconds, cost) in enumerate(updates):
        due = times.due(update)
        if due:
            measured.append(update)
            spent, largest = spent + cost, max(largest, cost)
        times.passed(seconds, cost if due else 0.0)
        time += seconds
        assert spent <= share * time + largest + 1e-9
    assert measured[:1] == ([first] if first < len(updates) else [])


def test_a_record_keeps_the_updates_in_which_the_curvature_was_measured():
    steps = np.arange(3 * MOST_ROWS)
    over = np.full(len(steps), np.nan)
    over[[1, 77, 501]] = 0.1, 0.2, 0.3
    loss = np.zeros(len(steps))
    history = History(
        len(steps), loss, loss, steps, run_readings={RunQuantity.RATE_OVER_CRITICAL: over}
    )
    kept = from_plain(to_plain(history))
    read = kept.of_run(RunQuantity.RATE_OVER_CRITICAL)
    assert kept.steps[~np.isnan(read)].tolist() == [1, 77, 501]
    assert {0, len(steps) - 1} <= set(kept.steps.tolist())
    assert kept.samples <= MOST_ROWS
    assert np.all(np.diff(kept.steps) > 0)


@given(st.lists(st.floats(0.0, 5.0) | st.just(float("inf")), max_size=9))
def test_what_is_said_of_the_readings_is_true(values):
    over = np.array([*values, np.nan])
    nothing = np.zeros(len(over))
    readings = {RunQuantity.RATE_OVER_CRITICAL: over}
    said = critical_said(
        History(len(over), nothing, nothing, np.arange(len(over)), run_readings=readings)
    )
    if not values:
        assert said == ""
        return
    count = f"of {len(values)} readings" if len(values) > 1 else "in the one reading"
    assert count in said
    risen = sum(value > 1 for value in values)
    assert (f"In {risen} of the readings the step has raised it" in said) == (
        risen > 0 and len(values) > 1
    )
    assert ("Where it is 0" in said) == (0 in values)


# ---- the tied range ------------------------------------------------------------------------------


@given(st.floats(1e-6, 10), st.floats(1.0, 1e3), st.floats(1e-7, 1e3))
def test_the_place_in_the_tied_range_is_true(low, width, rate):
    high = low * width
    said = place_said(rate, (low, high))
    assert said.startswith((f"The rate {rate:g} lies", "No other rate tied"))
    assert (" above the" in said) == (rate > high)
    assert (" below the" in said) == (rate < low)


def test_the_ends_of_the_tied_range_are_0_and_100_percent():
    for rate, share in ((0.01, "0%"), (0.1, "50%"), (1.0, "100%")):
        assert f": {share} of the way" in place_said(rate, (0.01, 1.0))
    assert place_said(0.1, (0.1, 0.1)) == "No other rate tied with 0.1 in the recipe's tuning."


@pytest.mark.parametrize("tied", [(1.0,), (0.0, 1.0), (2.0, 1.0), "ab", 3, (0.1, float("inf"))])
def test_another_tied_range_is_refused(tied):
    with pytest.raises(BadValueError, match="give the lowest and the highest rate"):
        WatchObserver(tied=tied)


def test_a_run_says_where_its_rate_lies_also_after_it_was_resumed(tmp_path):
    watching = WatchObserver(tied=(0.001, 0.1))
    etude.train(TASK, RECIPE, folder=tmp_path, watch=watching)
    etude.train(TASK, folder=tmp_path, resume=True, steps=60)
    record = etude.Record.load(tmp_path)
    assert tied_of(record) == (0.001, 0.1)
    said = [str(part) for part in health.sections(record)[0].parts]
    assert place_said(0.01, (0.001, 0.1)) in said
    record.notes["watch"]["tied"] = [1.0, 0.5]
    with pytest.raises(StorageError, match="damaged"):
        tied_of(record)


def test_a_tuning_tells_the_place_of_its_own_run_and_of_runs_of_its_recipe(tmp_path):
    x = torch.linspace(-1, 1, 64)[:, None]

    def task(factor=3.0):
        return Task(lambda: nn.Linear(1, 1), (x, factor * x), loss=mse_loss)

    best = etude.tune(
        task(), Recipe(steps=40, batch_size=16), 1.5, folder=tmp_path / "t", progress=False
    )
    page = str([part for one in etude.report.present(best).sections for part in one.parts])
    assert place_said(best.lr, best.tied) in page
    assert tied_in(tmp_path / "t", task(), best.recipe) == best.tied
    assert tied_in(tmp_path / "t", task(), best.recipe.replace(lr=0.7, seed=5)) == best.tied
    assert tied_in(tmp_path / "t", task(), best.recipe.replace(batch_size=8)) is None
    assert tied_in(tmp_path / "t", task(2.0), best.recipe) is None
    assert tied_in(tmp_path, task(), best.recipe) is None
