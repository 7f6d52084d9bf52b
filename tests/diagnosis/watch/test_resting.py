"""Hooks are attached only where something is read, and a watch that costs too much rests."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from etude.diagnosis.finding import Cause
from etude.diagnosis.history import Quantity
from etude.diagnosis.watching.sampling import BOUND, FREE, LONGEST, WINDOW, Sampler
from tests.diagnosis.programs import classes, net, opened
from tests.diagnosis.watch.common import PLAIN, hooks_of


def forward_hooks(model):
    return len(model._forward_hooks) + len(model._forward_pre_hooks)


class Loop:
    """A plain loop that can be looked at between two updates."""

    def __init__(self, clears=True):
        self.x, self.y = classes(128)
        torch.manual_seed(0)
        self.model = net(8, 16, 3)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.clears = clears
        self.losses = []

    def go(self, updates, each=lambda t: None):
        for t in range(updates):
            i = torch.randint(0, 128, (16,))
            if self.clears:
                self.optimizer.zero_grad()
            loss = cross_entropy(self.model(self.x[i]), self.y[i])
            loss.backward()
            self.losses.append(loss.item())
            self.optimizer.step()
            each(t)

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]


def test_forward_passes_are_listened_to_only_where_they_are_read():
    loop = Loop()
    counts = []
    with opened(loop.model, loop.optimizer, every=4) as w:
        counts.append(forward_hooks(loop.model))
        loop.go(40, each=lambda t: counts.append(forward_hooks(loop.model)))
    read = ~np.isnan(w.report().history.of_layers(Quantity.ACTIVATION_VARIANCE)[:, 0])
    assert w.report().history.steps[read].tolist() == list(range(0, 40, 4))
    assert [t for t in range(40) if counts[t]] == list(range(0, 40, 4))


def test_a_model_whose_passes_are_not_heard_keeps_its_hooks():
    """Torch may compile a model again where its hooks change."""
    loop = Loop()
    compiled = torch.compile(loop.model, backend="eager")
    counts = []
    with opened(loop.model, loop.optimizer) as w:
        for _ in range(12):
            loop.optimizer.zero_grad()
            cross_entropy(compiled(loop.x), loop.y).backward()
            loop.optimizer.step()
            counts.append(forward_hooks(loop.model))
    assert counts == [2] * 12
    assert w.report().history.updates == 12


def test_where_no_backward_pass_is_heard_forward_passes_are():
    loop = Loop()
    with opened(loop.model, loop.optimizer, every=5) as w:
        for _ in range(12):
            loss = cross_entropy(loop.model(loop.x), loop.y)
            grads = torch.autograd.grad(loss, [*loop.model.parameters()])
            for parameter, grad in zip(loop.model.parameters(), grads, strict=True):
                parameter.grad = grad
            loop.optimizer.step()
            assert forward_hooks(loop.model) == 2
    assert w.report().history.updates == 12


# ---- the account ------------------------------------------------------------------------------


@given(
    seconds=st.floats(1e-5, 1e-1),
    plain=st.floats(1e-6, 1e-3),
    reading=st.floats(1e-5, 1e-2),
)
@settings(max_examples=60, deadline=None)
def test_over_a_long_run_the_watch_keeps_its_bound(seconds, plain, reading):
    """After the first updates, which are free: up to one sampled pair, and one window."""
    sampler = Sampler()
    update, own = 0, 0.0
    begun = (0.0, 0.0)
    for _ in range(6 * FREE):
        sampled = sampler.due(update)
        cost = plain + (reading if sampled else 0.0)
        sampler.passed(seconds, cost, sampled=sampled)
        if sampled:
            sampler.sampled(update, cost)
        own += cost
        update += 1
        if update == FREE:
            begun = own, FREE * seconds
        if rest := sampler.rest():
            sampler.rested(rest, rest * seconds)
            update += rest
    spent, run = own - begun[0], update * seconds - begun[1]
    forced = 2 * (update.bit_length() + update / LONGEST) * (plain + reading)
    least = WINDOW * plain * run / seconds / (WINDOW + LONGEST)
    assert spent <= BOUND * run + forced + least + 2 * WINDOW * plain


def test_a_loop_of_slow_updates_never_rests_and_a_period_forbids_it():
    for every, plain in ((None, 1e-4), (7, 1.0)):
        sampler = Sampler(every)
        for update in range(2 * FREE):
            sampler.passed(0.01, plain, sampled=False)
            if sampler.due(update):
                sampler.sampled(update, plain)
            assert sampler.rest() == 0


# ---- a watch that rests -----------------------------------------------------------------------


@pytest.fixture
def rests(monkeypatch):
    """Rest for 7 updates after every 12 that were watched."""
    seen = []

    def rest(self):
        seen.append(self._passed)
        return 7 if len(seen) % 12 == 0 else 0

    monkeypatch.setattr(Sampler, "rest", rest)
    monkeypatch.setattr(Sampler, "due", lambda self, update: True)


def resting(updates):
    """Return which updates of a run are rested."""
    return [t % 19 >= 12 for t in range(updates)]


def test_a_watch_that_rests_counts_all_updates_and_says_which_losses_it_heard(rests):
    loop, heard = Loop(), []
    loop.optimizer.param_groups[0]["lr"] = 0.0

    def each(t):
        heard.append(torch.autograd.backward is not PLAIN[0])
        loop.optimizer.param_groups[0]["lr"] = 0.01 * (t + 1)

    with opened(loop.model, loop.optimizer) as w:
        loop.go(60, each)
        assert w.updates == 60
    history, rested = w.report().history, resting(60)
    assert history.updates == 60
    assert np.isnan(history.loss).tolist() == rested
    assert history.loss[~np.array(rested)].tolist() == [
        loss for loss, skipped in zip(loop.losses, rested, strict=True) if not skipped
    ]
    assert history.steps.tolist() == [t for t in range(60) if not rested[t]]
    np.testing.assert_allclose(history.lr, [0.01 * t for t in range(60)])
    assert heard == [not one for one in resting(61)[1:]]
    said = [one for one in w.report().seen if one.startswith("the losses of")]
    assert said == [
        "the losses of 39 of 60 updates, since hearing each would take more than 2% of the time"
    ]
    assert not hooks_of(loop.model, loop.optimizer)


def test_a_run_has_the_same_bits_while_the_watch_rests(rests):
    def trained(watched):
        loop = Loop()
        context = opened(loop.model, loop.optimizer) if watched else nullcontext()
        with context:
            loop.go(60)
        return loop

    plain, watched = trained(False), trained(True)
    assert plain.losses == watched.losses
    assert all(map(torch.equal, plain.weights(), watched.weights()))


def test_readings_after_a_rest_are_those_of_these_updates(rests):
    loop, norms = Loop(), []
    with opened(loop.model, loop.optimizer) as w:
        loop.go(60, lambda t: norms.append(float(loop.model[0].weight.grad.norm())))
    history = w.report().history
    found = history.parameter_gradients[:, 0]
    np.testing.assert_allclose(found, [norms[t] for t in history.steps], rtol=1e-5)
    cosine = history.of_layers(Quantity.UPDATE_COSINE)[:, 0]
    apart = [False, *(b - a > 1 for a, b in pairwise(history.steps.tolist()))]
    assert np.isnan(cosine[apart]).all()
    assert np.isfinite(cosine[~np.array(apart)][1:]).all()


def test_gradients_that_are_not_cleared_are_found_by_a_watch_that_rests(rests):
    loop = Loop(clears=False)
    with opened(loop.model, loop.optimizer) as w:
        loop.go(60)
    assert [one.what for one in w.report().findings] == [Cause.GRADIENTS_NOT_CLEARED]
    loop = Loop()
    with opened(loop.model, loop.optimizer) as w:
        loop.go(60)
    assert w.report().healthy


def test_a_report_and_a_pause_while_the_watch_rests_lose_no_update(rests):
    loop = Loop()
    w = opened(loop.model, loop.optimizer)
    loop.go(15)
    assert w.report().history.updates == 15
    w.detach()
    loop.go(3)
    w.attach()
    loop.go(2)
    w.close()
    assert w.report().history.updates == 17
    assert not hooks_of(loop.model, loop.optimizer)


def test_several_optimizers_are_never_left_alone(rests):
    loop = Loop()
    second = nn.Linear(2, 2)
    both = [loop.optimizer, torch.optim.SGD(second.parameters(), lr=0.1)]
    with opened([loop.model, second], both) as w:
        for _ in range(20):
            loop.go(1)
            both[1].zero_grad()
            second(torch.ones(1, 2)).sum().backward()
            both[1].step()
            assert torch.autograd.backward is not PLAIN[0]
    assert w.report().history.updates == 20
