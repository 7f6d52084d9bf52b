"""A part that breaks, and a step that does not fit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude import Record, train
from etude.errors import BadValueError, StorageError, TaskError
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.training.turns.common import BASE, Gan, counting, gan, losses, task, weights


def breaks(part: str, at: int, value: float) -> Any:
    def step(model: Any, batch: Any) -> Iterator[tuple[str, Tensor]]:
        model.count += model.training
        factor = value if model.training and model.count == at + 1 else 1.0
        for name, loss in gan(model, batch):
            yield name, loss * factor if name == part else loss

    return step


@pytest.mark.parametrize("every", [1, 16])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["critic", "generator"])
def test_a_part_that_breaks_ends_the_run_and_is_named(part, value, every, tmp_path):
    run = Run(task(breaks(part, 7, value), counting), BASE)
    run.read_losses_every(every)
    run.advance(AdvanceRequest(evaluation_steps=run.state.evenly_spaced(4)))
    record = run.record()
    assert (record.status, record.cost.steps) == ("diverged", 7)
    assert record.reason.startswith(f"the training loss of '{part}' became {value} at update 7")
    assert {len(values) for values in record.series.values()} == {7}
    assert all(math.isfinite(v) for values in record.series.values() for v in values)
    if every == 1:  # what broke was not applied
        assert all(bool(p.isfinite().all()) for p in run.model.parameters())
    record.save(tmp_path)
    assert Record.load(tmp_path).reason == record.reason


def wrong(*turns: Any) -> Any:
    def step(model: Any, batch: Any) -> Iterator[Any]:
        critic, generator = losses(model, batch[0])
        known = {"critic": critic, "generator": generator}
        for turn in turns:
            yield (turn[0], known[turn[1]]()) if isinstance(turn, tuple) else turn

    return step


def no_mean(model: Any, batch: Any) -> Iterator[Any]:
    yield "critic", model.critic(batch[0])


def a_number(model: Any, batch: Any) -> Iterator[Any]:
    yield "critic", model.critic(batch[0]).mean().item()


def nothing(model: Any, batch: Any) -> Iterator[Any]:
    yield from ()


def too_early(model: Any, batch: Any) -> Iterator[Any]:
    critic, generator = losses(model, batch[0])
    late = generator()
    yield "critic", critic()
    yield "generator", late


def fails(model: Any, batch: Any) -> Iterator[Any]:
    yield "critic", losses(model, batch[0])[0]()
    yield "generator", model.no_such


def detached(model: Any, batch: Any) -> Iterator[Any]:
    critic, generator = losses(model, batch[0])
    yield "critic", critic()
    yield "generator", generator().detach()


def returned(model: Any, batch: Any) -> Any:
    return gan(model, batch)


MISFITS = {
    "name": (wrong(("generater", "critic")), "unknown part of the model 'generater': did you mean"),
    "deep name": (wrong(("critic.3", "critic")), r"unknown part of the model 'critic\.3'"),
    "empty name": (wrong(("", "critic")), "unknown part of the model ''"),
    "nothing": (nothing, "step yielded nothing: yield at least one part's name and its loss"),
    "no name": (wrong(3.0), "step yielded a float: yield a part's name and its loss, as in"),
    "list": (wrong(["critic", 3.0]), "step yielded a list: yield a part's name"),
    "no scalar": (no_mean, r"step yielded a tensor of shape \(8, 1\): a loss is one number"),
    "not a tensor": (a_number, "step yielded a float: it must yield a scalar tensor"),
    "other part": (wrong(("generator", "critic")), "'generator' depends on none of its param"),
    "detached": (detached, r"yielded for 'generator' depends on none .* check detach\(\)"),
    "fails": (fails, r"step failed on \[\(8, 2\) float32\]: .*no_such.* \(test_errors.py:\d+\)"),
    "returned": (returned, "step returned a generator: .* give the generator function itself"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_step_that_does_not_fit_is_refused_before_training(name):
    step, message = MISFITS[name]
    with pytest.raises((TaskError, BadValueError), match=message):
        train(task(step), BASE)


def test_a_frozen_part_is_refused():
    def frozen() -> nn.Module:
        model = Gan()
        model.critic.requires_grad_(False)
        return model

    with pytest.raises(TaskError, match="'critic', which has no trainable parameter: check req"):
        train(task(model=frozen), BASE)


def test_a_loss_computed_too_early_is_explained():
    with pytest.raises(
        TaskError, match=r"part 'generator' failed: .*: compute it after that yield"
    ):
        train(task(too_early), BASE)


def test_a_parameter_that_no_part_holds_is_warned_of():
    def extra() -> nn.Module:
        model = Gan()
        model.encoder = nn.Linear(2, 2)
        return model

    with pytest.warns(
        UserWarning,
        match=r"encoder.weight and 1 more belongs to none of the parts .* for the first batch",
    ):
        Run(task(model=extra), BASE).check()


def test_a_single_parameter_can_be_a_part():
    class Tempered(Gan):
        def __init__(self) -> None:
            super().__init__()
            self.log_alpha = nn.Parameter(torch.zeros(()))

    def step(model: Any, batch: Any) -> Iterator[Any]:
        yield from gan(model, batch)
        yield "log_alpha", (model.log_alpha - 1).square()

    record = train(task(step, Tempered), BASE.replace(lr=0.05, steps=100))
    assert float(record.model.log_alpha.detach()) == pytest.approx(1, abs=0.2)


def test_a_penalty_on_activations_is_refused():
    with pytest.raises(BadValueError, match=r"activity=0.1 watches one forward pass"):
        Run(task(), BASE.replace(activity=0.1))


def test_batches_that_disagree_are_refused():
    def moody(model: Any, batch: Any) -> Iterator[Any]:
        model.count += 1
        odd = bool(model.count % 2)
        critic, generator = losses(model, batch[0])
        yield "critic", critic()
        if odd:
            yield "generator", generator()

    with pytest.raises(TaskError, match="came to 'generator' where another came to an end"):
        train(task(moody, counting), BASE.replace(accumulate=2))


def test_an_observer_may_not_take_the_name_of_a_part():
    with pytest.raises(
        BadValueError, match="observer 'loss/critic': the record already has a series"
    ):
        train(task(), BASE, probes={"loss/critic": lambda run: 0.0})


@pytest.mark.parametrize("first", [True, False])
def test_an_error_in_a_step_keeps_a_whole_state_or_none(first, tmp_path):
    def step(model: Any, batch: Any) -> Iterator[Any]:
        model.count += model.training
        if first and model.training and model.count == 12:
            raise ValueError("broke")
        for turn in gan(model, batch):
            yield turn
            if model.training and model.count == 12:
                raise ValueError("broke")

    whole = train(task(gan_counted, counting), BASE)
    run = Run(task(step, counting), BASE)
    with pytest.raises(TaskError, match=r"step failed .*: broke \(test_errors.py"):
        run.advance()
    assert run.step == 11
    if not first:  # the critic is ahead of the generator
        with pytest.raises(StorageError, match="an update is half done"):
            run.state_dict()
        return
    again = Run(task(gan_counted, counting), BASE)
    again.load_state_dict(run.state_dict())
    again.advance()
    assert weights(again) == weights(whole)


def gan_counted(model: Any, batch: Any) -> Iterator[Any]:
    model.count += model.training
    yield from gan(model, batch)
