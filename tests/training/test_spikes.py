"""Policies at spikes: the published rules, what a run does, and that off is off."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from etude import Recipe, Record, Task, train
from etude.engines import LoopEngine, PoolEngine, VmapEngine
from etude.errors import BadValueError, StorageError
from etude.recipe_spikes import Rewind, Skip, ZClip
from etude.storage.state_tree import flatten, unflatten
from etude.tasks.sources.data import Cursor
from etude.training.gradient.norm_moments import NormMoments
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.engines.common import same_bits

SIZE, BATCH, SPIKE = 800, 8, 70
"""Updates of an epoch are 100; the batch of update `SPIKE` is the bad one in `task`."""

POLICIES = (
    "skip(sigmas=20, window=32, after=40)",
    "rewind(back=15, skip=40, sigmas=20, window=32, after=40)",
    "zclip(z=4, warmup=10)",
)
BASE = Recipe(
    optimizer={"name": "sgd", "momentum": 0.5},
    lr=0.02,
    schedule="linear(end=0.5)",
    steps=98,
    batch_size=BATCH,
    evaluations=3,
)


class Net(nn.Module):
    """Linear, with a normalisation whose buffers a skipped update must not change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


def order(recipe: Recipe = BASE) -> list[Tensor]:
    """Return the rows of each batch of the first epoch: training draws them from the seed alone."""
    rows = torch.arange(SIZE, dtype=torch.float32)[:, None]
    numbered = Task(Net, (rows.expand(-1, 4), rows), valid=(rows, rows), loss=mse_loss)
    stream = numbered.train.stream(BATCH, recipe.seed, Cursor())
    return [next(stream)[1][:, 0].long() for _ in range(SIZE // BATCH)]


def task(at: int | None = SPIKE, value: float = 1e3) -> Task:
    """A linear task; the targets of one update of the first epoch are `value`."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE + 64, 4, generator=g)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(SIZE + 64, 1, generator=g)
    if at is not None:
        y[order()[at]] = value
    return Task(Net, (x[:SIZE], y[:SIZE]), valid=(x[SIZE:], y[SIZE:]), loss=mse_loss)


def weights(run: Run) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in run.model.state_dict().values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def at(series: Any) -> list[int]:
    return np.flatnonzero(np.asarray(series)).tolist()


# ---- the published rules -----------------------------------------------------------------

numbers = st.floats(0.01, 100.0)


@given(st.lists(numbers, min_size=2, max_size=60), st.lists(numbers, min_size=60, max_size=60))
def test_skip_is_the_rule_of_olmo_core(losses, norms):
    """`SkipStepOptimizer.get_step_factor`, with torch's own standard deviation."""
    policy = Skip(sigmas=2.0, window=16, after=16)
    for t in range(len(losses)):
        one, other = losses[: t + 1], norms[: t + 1]
        skip = False
        if t >= 16:
            for series in (one, other):
                std, mean = torch.std_mean(torch.tensor(series[-17:-1], dtype=torch.float64))
                gap = series[-1] - float(mean) - 2.0 * float(std)
                if abs(gap) < 1e-9:
                    return  # within roundoff of the bound
                skip = skip or gap > 0
        assert policy.spikes(t, one, other) == skip


class PublishedZClip:
    """The reference: arXiv 2504.02507, algorithm 1, as plain numbers."""

    def __init__(self, z: float, alpha: float, warmup: int) -> None:
        self.z, self.alpha, self.warmup = z, alpha, warmup
        self.first: list[float] = []
        self.mean: float | None = None
        self.var = 0.0

    def step(self, norm: float) -> float:
        if self.mean is None:
            self.first.append(norm)
            if len(self.first) >= self.warmup:
                self.mean, self.var = float(np.mean(self.first)), float(np.var(self.first))
            return norm
        z = (norm - self.mean) / (self.var**0.5 + 1e-6)
        clipped = norm
        if z > self.z:
            clipped = self.mean + self.z * self.var**0.5 / (z / self.z)
        self.mean = self.alpha * self.mean + (1 - self.alpha) * clipped
        self.var = self.alpha * self.var + (1 - self.alpha) * (clipped - self.mean) ** 2
        return clipped


@given(
    st.lists(numbers, min_size=5, max_size=80),
    st.floats(0.5, 4.0),
    st.floats(0.5, 0.99),
    st.integers(2, 30),
)
def test_zclip_is_the_published_formula(norms, z, alpha, warmup):
    ours, published = NormMoments(ZClip(z, alpha, warmup)), PublishedZClip(z, alpha, warmup)
    for t, norm in enumerate(norms):
        bound = ours.bound(norm, norms[:t])
        assert (norm if bound is None else bound) == pytest.approx(published.step(norm), rel=1e-9)


@given(st.lists(numbers, min_size=5, max_size=60), st.data())
def test_zclips_moments_are_the_same_when_they_are_read_from_the_series(norms, data):
    place = data.draw(st.integers(0, len(norms) - 1))
    whole, resumed = (NormMoments(ZClip(warmup=3)) for _ in range(2))
    for t, norm in enumerate(norms):
        bound = whole.bound(norm, norms[:t])
        if t >= place:
            assert resumed.bound(norm, norms[:t]) == bound


@given(st.floats(1.5, 1e6), st.integers(0, 100))
def test_a_lasting_rise_is_skipped_four_times_at_most(height, seed):
    """Skipped values take part in the statistics: a run is not held up for ever."""
    rng = np.random.default_rng(seed)
    losses = list(1 + 0.01 * rng.standard_normal(256)) + [height] * 40
    policy = Skip()
    skipped = [t for t in range(256, 296) if policy.spikes(t, losses[: t + 1])]
    assert skipped == list(range(256, 256 + len(skipped)))
    assert 1 <= len(skipped) <= 4


def test_no_update_is_skipped_before_there_is_enough_history():
    policy = Skip()
    assert not policy.spikes(255, [1.0] * 255 + [1e9])
    assert policy.spikes(256, [1.0] * 256 + [1e9])


# ---- what a run does ---------------------------------------------------------------------


def test_off_changes_nothing_and_a_policy_that_never_acts_changes_no_bit():
    plain = Run(task(None), BASE)
    plain.advance()
    assert set(plain.series) == {"loss", "lr"}
    for policy in POLICIES[:2]:
        run = Run(task(None), BASE.replace(spikes=policy))
        run.advance()
        assert equal(weights(run), weights(plain)), policy
        assert run.series["loss"] == plain.series["loss"]
        assert at(run.series.get("skipped", run.series.get("rewound"))) == []


def test_a_skipped_step_leaves_no_trace_in_model_and_optimizer_and_counts_as_done():
    run = Run(task(), BASE.replace(spikes=POLICIES[0]))
    run.advance(SPIKE)
    before, memory = weights(run), copy.deepcopy(run.optimizer.state_dict()["state"])
    run.advance(SPIKE + 1)
    assert equal(weights(run), before)
    after = run.optimizer.state_dict()["state"]
    assert all(
        torch.equal(memory[i]["momentum_buffer"], after[i]["momentum_buffer"]) for i in memory
    )
    assert run.step == SPIKE + 1
    assert run.state.cursor == Cursor(0, SPIKE + 1)
    run.advance()
    assert at(run.series["skipped"]) == [SPIKE]
    assert run.series["lr"] == [0.02 * BASE.schedule.over(BASE.steps)(t) for t in range(BASE.steps)]


@pytest.mark.parametrize("value", [1e3, math.nan, math.inf])
def test_a_skipped_run_learns_what_the_spike_would_have_undone(value):
    run, good = Run(task(value=value), BASE.replace(spikes=POLICIES[0])), Run(task(None), BASE)
    for one in (run, good):
        one.advance(AdvanceRequest(evaluation_steps=lambda state: {BASE.steps}))
    record, good = run.record(), good.record()
    assert record.status == "finished"
    assert at(record.series["skipped"]) == [SPIKE]
    assert record.valid_loss == pytest.approx(good.valid_loss, rel=0.2)
    assert len(record.series["loss"]) == BASE.steps


def test_a_loss_that_stays_broken_ends_a_run_that_skips():
    class Breaks(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = getattr(self, "seen", 0) + self.training
            return super().forward(x) * (math.nan if self.seen > 60 and self.training else 1.0)

    of = task(None)
    broken = Task(Breaks, of.train, valid=of.valid, loss=mse_loss)
    record = train(broken, BASE.replace(spikes=POLICIES[0]))
    assert record.status == "diverged"
    assert len(at(record.series["skipped"])) == 4


def test_rewind_goes_back_to_the_kept_weights_and_on_with_later_batches():
    policy = Rewind(back=15, skip=40, sigmas=20, window=32, after=40)
    run = Run(task(), BASE.replace(spikes=policy))
    kept: dict[int, Any] = {}
    for step in range(SPIKE + 1):
        kept[step] = weights(run), copy.deepcopy(run.optimizer.state_dict())
        run.advance(step + 1)
    at_spike = 45  # the newest multiple of 15 that is at least 15 updates before update 70
    assert at(run.series["rewound"]) == [SPIKE]
    assert run.series["rewound"][SPIKE] == SPIKE - at_spike
    assert run.state.cursor == Cursor(0, at_spike + 40 + 1)
    assert run.state.extra_gradients == 1

    by_hand = Run(task(), BASE)
    by_hand.advance(SPIKE)
    by_hand.model.load_state_dict(dict(zip(run.model.state_dict(), kept[at_spike][0], strict=True)))
    by_hand.optimizer.load_state_dict(kept[at_spike][1])
    saved = by_hand.state_dict() | {"place": {"epoch": 0, "batch": at_spike + 40}}
    moved = Run(task(), BASE)
    moved.load_state_dict(unflatten(*flatten(saved)))
    moved.advance(SPIKE + 1)
    assert equal(weights(moved), weights(run))


def test_a_rewind_can_mend_a_loss_that_is_not_finite_and_none_follows_for_back_updates():
    run = Run(task(value=math.nan), BASE.replace(spikes=POLICIES[1]))
    run.advance(84)  # the data are at batch 99: in the next epoch the NaN come again
    assert run.status == "stopped"
    assert at(run.series["rewound"]) == [SPIKE]
    assert np.isfinite(run.series["loss"]).all()
    every = Task(
        Net, (torch.full((80, 4), math.nan), torch.zeros(80, 1)), loss=mse_loss,
        valid=(torch.ones(8, 4), torch.ones(8, 1)),
    )  # fmt: skip
    run = Run(every, BASE.replace(spikes=POLICIES[1]))
    run.advance()
    assert run.diverged


def test_zclip_clips_the_spike_and_says_so():
    run = Run(task(), BASE.replace(spikes=POLICIES[2]))
    run.advance()
    norms, clipped = run.series["grad_norm"], run.series["clipped"]
    reference = PublishedZClip(4.0, 0.97, 10)
    assert [float(reference.step(norm) < norm) for norm in norms] == clipped
    assert clipped[SPIKE] == 1.0
    plain = Run(task(), BASE)
    plain.advance()
    assert not plain.evaluate().loss < 10 * run.evaluate().loss  # it is NaN or far higher


# ---- resume, engines, records ------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "value"), [*((policy, 1e3) for policy in POLICIES), (POLICIES[1], math.nan)]
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(policy, value):
    of, recipe = task(value=value), BASE.replace(spikes=policy)
    whole, kept = Run(of, recipe), []
    for place in (46, SPIKE, SPIKE + 1, SPIKE + 8):
        whole.advance(place)
        kept.append(unflatten(*flatten(whole.state_dict())))
    whole.advance()
    for state in kept:
        resumed = Run(of, recipe)
        resumed.load_state_dict(state)
        resumed.advance()
        np.testing.assert_equal(resumed.series, whole.series)
        assert equal(weights(resumed), weights(whole))
        assert resumed.state.extra_gradients == whole.state.extra_gradients


def test_a_damaged_checkpoint_is_refused():
    run = Run(task(), BASE.replace(spikes=POLICIES[1]))
    run.advance(50)
    with pytest.raises(StorageError, match="damaged: its kept states"):
        run.load_state_dict(run.state_dict() | {"rewinder": {"gone": 0, "kept": [{"update": 3}]}})


def test_engines_give_the_loops_bits():
    recipes = [BASE.replace(spikes=policy) for policy in POLICIES]
    theirs = [Run(task(), recipe) for recipe in recipes]
    LoopEngine().advance(theirs)
    vmap = VmapEngine(compile="never")
    with PoolEngine(workers=2) as pool:
        for engine in (pool, vmap):
            ours = [Run(task(), recipe) for recipe in recipes]
            for until in (SPIKE, None):
                engine.advance(ours, AdvanceRequest(until))
            assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))
    assert "spikes=skip(sigmas=20.0, window=32, after=40) depends on each run's earlier" in str(
        vmap.notes
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_the_record_keeps_what_was_done(policy, tmp_path):
    record = train(task(), BASE.replace(spikes=policy), folder=tmp_path / "run")
    again = Record.load(tmp_path / "run")
    name = {"s": "skipped", "r": "rewound", "z": "clipped"}[policy[0]]
    assert SPIKE in at(again.series[name])
    assert again.recipe == record.recipe


# ---- refusals ----------------------------------------------------------------------------


def test_what_cannot_work_is_refused():
    with pytest.raises(BadValueError, match="leave one out"):
        Recipe(spikes="zclip", clip_percentile=90)
    with pytest.raises(BadValueError, match="needs the true gradient"):
        Recipe(spikes="zclip", optimizer="lbfgs")
    Recipe(spikes="skip", optimizer="lbfgs")
    with pytest.raises(BadValueError, match="did you mean 'skip'"):
        Recipe(spikes="skp")
    with pytest.raises(BadValueError, match=r"sigmas=0\.5 is out of bounds: give a number >= 1"):
        Recipe(spikes="skip(sigmas=0.5)")
    with pytest.raises(BadValueError, match=r"after=9 is out of bounds: give at least 128"):
        Recipe(spikes="rewind(after=9)")
    with pytest.raises(BadValueError, match=r"alpha=1 is out of bounds"):
        Recipe(spikes="zclip(alpha=1)")
    with pytest.raises(BadValueError, match="give at least 1"):
        Recipe(spikes="rewind(back=0)")
    with pytest.raises(TypeError, match="give 'skip', 'rewind', 'zclip'"):
        Recipe(spikes=3)
