"""The largest sample's share of a loss: as computed by hand, and told where the loss spikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from etude.diagnosis.evidence.sample_spread import MOST, SpreadReader, largest_share
from etude.diagnosis.finding import Symptom
from etude.diagnosis.health.history_tree import from_tree, to_tree
from etude.diagnosis.health.joined import joined
from etude.diagnosis.history import History, LargestSample
from tests.diagnosis.programs import classes, net, opened

LOSSES = {
    "cross_entropy": (functional.cross_entropy, "classes"),
    "nll_loss": (lambda s, t: functional.nll_loss(s.log_softmax(1), t), "classes"),
    "mse_loss": (functional.mse_loss, "numbers"),
    "bce": (lambda s, t: functional.binary_cross_entropy(s.sigmoid(), t), "shares"),
    "bce_with_logits": (functional.binary_cross_entropy_with_logits, "shares"),
}


@given(st.sampled_from(sorted(LOSSES)), st.integers(2, 9), st.integers(0, 2**20))
@settings(max_examples=60)
def test_the_share_is_that_of_the_losses_of_single_samples(name, rows, seed):
    loss, kind = LOSSES[name]
    draws = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, 4, generator=draws).requires_grad_()
    targets = {
        "classes": torch.randint(0, 4, (rows,), generator=draws),
        "numbers": torch.randn(rows, 4, generator=draws),
        "shares": torch.rand(rows, 4, generator=draws),
    }[kind]
    each = [loss(scores[i : i + 1], targets[i : i + 1]).item() for i in range(rows)]
    share, count = largest_share(loss(scores, targets))
    assert count == rows
    np.testing.assert_allclose(share, max(each) / sum(each), rtol=1e-4)


def test_targets_that_are_left_out_have_no_share():
    scores = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    target = torch.tensor([1, -100, 0])
    share, rows = largest_share(functional.cross_entropy(scores, target))
    assert rows == 3
    np.testing.assert_allclose(share, 9 / (9 + np.log(2)), rtol=1e-3)


@pytest.mark.parametrize("loss", [
    lambda s, t: (s - t).abs().mean(),
    lambda s, t: functional.huber_loss(s, t, delta=0.1),
    lambda s, t: functional.mse_loss(s, t, reduction="sum"),
    lambda s, t: functional.mse_loss(s, t) + functional.mse_loss(s, 2 * t),
    lambda s, t: functional.mse_loss(s, s.detach()),
])  # fmt: skip
def test_of_other_losses_nothing_is_said(loss):
    scores = torch.randn(5, 2, requires_grad=True)
    assert largest_share(loss(scores, torch.randn(5, 2))) is None


def test_few_jumps_are_read_however_many_there_are():
    reader, target = SpreadReader(), torch.zeros(4)
    for update in range(2_000):
        value = 1e3 if update > 60 and update % 7 == 0 else 1.0
        output = torch.full((4,), value, requires_grad=True)
        reader.read(update, functional.mse_loss(output, target))
    assert 0 < len(reader.found) <= MOST
    assert all(one.share == 0.25 for one in reader.found.values())


@pytest.mark.parametrize("of_data", [True, False])
def test_a_spike_of_one_sample_is_told_from_one_of_all(of_data):
    x, y = classes()
    torch.manual_seed(0)
    model = net(8, 32, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with opened(model, optimizer) as w:
        for t in range(450):
            i = torch.randint(0, len(x), (32,))
            inputs = x[i].clone()
            if t in (200, 300, 400):
                if of_data:
                    inputs[3] = 300.0 * inputs[3]
                    y_ = y[i].clone()
                    y_[3] = (model(inputs[3:4]).argmax() + 1) % 3
                else:
                    with torch.no_grad():
                        model[2].weight.mul_(-4)
            wrong = of_data and t in (200, 300, 400)
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), y_ if wrong else y[i]).backward()
            optimizer.step()
    (finding,) = [one for one in w.report().findings if one.what == Symptom.SPIKING]
    share = finding.evidence["largest_share"]
    assert finding.evidence["rows"] == 32
    assert f"had {share:.0%} of the batch's loss" in finding.text
    assert share > 0.9 if of_data else share < 0.3


def test_it_is_kept_in_checkpoints_and_joined():
    def history(*updates):
        nothing = np.zeros(20)
        largest = tuple(LargestSample(update, 0.5, 8) for update in updates)
        return History(20, nothing, nothing, np.array([0]), largest_samples=largest)

    one = history(3, 9)
    assert from_tree(to_tree(one)).largest_samples == one.largest_samples
    assert [s.update for s in joined(one, history(9, 12)).largest_samples] == [3, 9, 12]
    assert [s.update for s in one.until(9).largest_samples] == [3]
