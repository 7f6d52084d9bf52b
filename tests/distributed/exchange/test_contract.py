"""What every row of the table of exchanges must do: agree, save bytes, survive a resume, refuse."""

from __future__ import annotations

import re

import pytest
import torch

from etude import Recipe
from etude.distributed.exchange.table import EXCHANGES, row_of
from etude.errors import StorageError
from etude.recipe_exchange import COMPRESSIONS, compression
from tests.distributed.exchange.common import LENGTH, Replica, in_ranks, weights

SHORT = {
    "topk": "topk(ratio=0.05)",
    "local-sgd": "local-sgd(period=3)",
    "diloco": "diloco(inner=5)",
}
"""Numbers with which a method acts within a few updates."""

NAMES = tuple(EXCHANGES)
OTHERS = tuple(name for name in EXCHANGES if name != "none")


def test_the_table_has_a_row_for_everything_that_a_recipe_can_say():
    assert {name: row.policy for name, row in EXCHANGES.items() if row.policy} == COMPRESSIONS
    for name, row in EXCHANGES.items():
        assert row.name == name
        assert row.what
        assert row.source
        assert row_of(compression(name)) is row


@pytest.mark.parametrize("name", NAMES)
def test_all_processes_end_with_the_same_weights_and_have_learned(name):
    def run(group):
        ended = Replica(group, SHORT.get(name, name)).train(LENGTH)
        return weights(ended.model), ended.losses

    (first, losses), (second, _) = in_ranks(2, run)
    assert torch.equal(first, second)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", OTHERS)
def test_every_method_sends_less_than_whole_gradients(name):
    def sent(which):
        return in_ranks(2, lambda g: Replica(g, which).train(LENGTH).exchange.bytes_sent)

    whole, less = sent("none"), sent(SHORT.get(name, name))
    assert whole[0] == whole[1]
    assert less[0] == less[1]
    assert 0 < less[0] < whole[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(name, optimizer):
    """Also in the middle of a period, where every process has weights of its own."""
    pause = 7

    def whole(group):
        return weights(Replica(group, SHORT.get(name, name), optimizer).train(LENGTH).model)

    def before(group):
        return Replica(group, SHORT.get(name, name), optimizer).train(pause).saved()

    saved = in_ranks(2, before)[0]  # the first process alone writes

    def after(group):
        resumed = Replica(group, SHORT.get(name, name), optimizer).load(saved)
        assert resumed.exchange.told == ""
        return weights(resumed.train(LENGTH).model)

    for one, other in zip(in_ranks(2, whole), in_ranks(2, after), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", OTHERS)
def test_a_resume_with_other_processes_goes_on_and_says_so(name):
    saved = in_ranks(2, lambda g: Replica(g, SHORT.get(name, name)).train(7).saved())[0]

    def after(group):
        resumed = Replica(group, SHORT.get(name, name)).load(saved)
        assert resumed.exchange.told.startswith("the checkpoint is of 2 processes, this run has 3")
        return weights(resumed.train(LENGTH).model)

    first, second, third = in_ranks(3, after)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert torch.isfinite(first).all()


def test_a_state_of_another_method_or_a_damaged_one_is_refused():
    def run(group):
        replica = Replica(group, "topk")
        state = replica.train(3).exchange.state_dict()
        with pytest.raises(StorageError, match=r"exchanged gradients by 'topk\(\)', not powersgd"):
            Replica(group, "powersgd").exchange.load_state_dict(state)
        with pytest.raises(StorageError, match="the checkpoint is damaged: its exchange of grad"):
            replica.exchange.load_state_dict({"method": "topk()", "processes": 1, "state": {}})

    in_ranks(1, run)


# ---- refusals ------------------------------------------------------------------------------

REFUSED = [
    ({"compress": "powersgd", "optimizer": "lbfgs"}, "lbfgs computes several gradients"),
    ({"compress": "diloco", "optimizer": "lbfgs"}, "lbfgs computes several gradients"),
    ({"compress": "topk", "spikes": "skip"}, r"spikes=skip\(\) undoes an update"),
    ({"compress": "local-sgd", "spikes": "rewind"}, r"spikes=rewind\(\) undoes an update"),
    ({"compress": "diloco", "early_stopping": 3}, "early_stopping=3 keeps the best weights"),
    ({"compress": "diloco", "optimizer": "schedulefree_adamw"}, "keeps a second set of weights"),
    ({"compress": "local-sgd", "optimizer": "prodigy"}, "estimates its own step"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_what_a_method_does_not_fit_is_said(fields, reason):
    recipe = Recipe(**fields)
    assert re.search(reason, row_of(recipe.compress).why_not(recipe))


@pytest.mark.parametrize("name", OTHERS)
def test_every_method_fits_plain_recipes(name):
    for optimizer in ("sgd", "adamw", "muon"):
        recipe = Recipe(compress=name, optimizer=optimizer, clip_norm=1.0, spikes="zclip",
                        accumulate=2)  # fmt: skip
        assert row_of(recipe.compress).why_not(recipe) == ""
