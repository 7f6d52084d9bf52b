"""float16: the scale of the loss is torch's, and a step that overflows is no update."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Recipe, Task, train
from etude.engines import train_many
from etude.errors import StorageError, TaskError
from etude.recipe import RecipeError
from etude.training.gradient import loss_scale
from etude.training.gradient.loss_scale import LossScale
from etude.training.run import Run
from tests.helpers import data, mlp, task

HALF = Recipe(
    optimizer={"name": "sgd", "momentum": 0.9},
    lr=0.05,
    steps=24,
    batch_size=16,
    evaluations=4,
    precision="float16",
)


class Bursts(nn.Module):
    """A line whose gradient overflows float16 in the batches that hold a marked row."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + 1
        return self.line(x[:, :4]) * x[:, 4:]


def bursting(size: float = 3e4, rows: int = 2) -> Task:
    torch.manual_seed(0)
    x = torch.randn(128, 5)
    x[:, 4] = 1.0
    x[:rows, 4] = size
    y = torch.zeros(128, 1)
    return Task(Bursts, (x, y), (x[rows:], y[rows:]), loss=lambda o, t: mse_loss(o, t) / 1e4)


def weights(model: nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten().double() for p in model.parameters()]).tolist()


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
def test_the_scale_is_that_of_torch(finite, interval):
    """Whatever gradients come, both take the same steps with the same factor."""
    own, theirs = LossScale(), torch.amp.GradScaler("cpu", growth_interval=interval)
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs.scale(torch.ones(()))  # sets it up
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "INTERVAL", interval)
        for good in finite:
            assert own.value == theirs.get_scale()
            parameter.grad = torch.full((3,), 2.0 if good else math.inf)
            theirs.unscale_(optimizer)
            theirs.step(optimizer)
            theirs.update()
            parameter.grad = torch.full((3,), 2.0 if good else math.inf)
            assert own.divide([parameter]) == good
            if good:
                assert parameter.grad.tolist() == [2.0 / own.value] * 3
                own.count()
            else:
                own.back_off()
        assert own.value == theirs.get_scale()


def test_a_step_that_overflows_is_no_update():
    record = train(bursting(), HALF)
    assert record.status == "finished"
    assert record.cost.steps == HALF.steps == len(record.series["loss"])
    over = record.series["overflows"]
    assert over.sum() > 0
    # One gradient more for each, paid for; the rate follows the updates alone.
    assert record.cost.gradients == 16 * (HALF.steps + over.sum())
    assert (
        record.series["lr"].tolist()
        == train(bursting(), HALF.replace(precision="float32")).series["lr"].tolist()
    )
    # Nothing of it stays but a smaller scale.
    scale = record.series["loss_scale"]
    assert scale[-1] == 2.0**16 * 0.5 ** over.sum()
    assert int(record.model.seen) == HALF.steps
    assert all(map(math.isfinite, weights(record.model)))


def test_it_goes_on_from_any_update_to_the_bit():
    whole = Run(bursting(), HALF)
    whole.advance()
    for step in (1, 5, 17):
        first, second = Run(bursting(), HALF), Run(bursting(), HALF)
        first.advance(step)
        second.load_state_dict(first.state_dict())
        second.advance()
        assert weights(second.model) == weights(whole.model)
        assert second.series == whole.series
        assert second.state_dict()["scale"] == whole.state_dict()["scale"]


@pytest.mark.slow
def test_worker_processes_give_the_same_bits():
    recipes = [HALF, HALF.replace(lr=0.02)]
    one, two = (train_many(bursting(), recipes, engine) for engine in ("loop", "pool"))
    for a, b in zip(one, two, strict=True):
        assert weights(a.model) == weights(b.model)
        assert a.series["loss_scale"].tolist() == b.series["loss_scale"].tolist()


def test_an_error_in_a_later_attempt_loses_nothing():
    """The batch that overflowed is used up, the one that failed comes again."""

    class Failing(Bursts):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Failing.calls += 1
            if Failing.calls in fail:
                raise RuntimeError("a cable came loose")
            return super().forward(x)

    fail: set[int] = set()
    of = bursting()
    whole = Run(Task(Failing, of.train, of.valid, loss=of.loss), HALF)
    whole.advance()
    calls, Failing.calls = Failing.calls, 0
    assert calls > HALF.steps
    for place in range(1, calls + 1):
        Failing.calls, fail = 0, {place}
        run = Run(Task(Failing, of.train, of.valid, loss=of.loss), HALF)
        with pytest.raises(TaskError, match="a cable came loose"):
            run.advance()
        run.advance()
        assert weights(run.model) == weights(whole.model)
        assert run.series == whole.series


def test_a_gradient_that_never_fits_ends_the_run():
    torch.manual_seed(0)
    x = torch.randn(64, 1)
    hopeless = Task(
        lambda: nn.Linear(1, 1), (x, x), loss=lambda o, t: (o - t).square().mean() * 1e38
    )
    record = train(hopeless, HALF)
    assert record.status == "diverged"
    assert "the gradient overflowed float16 at every loss scale down to 0.00098" in record.reason
    assert record.cost.steps == 0


def test_small_gradients_are_not_lost():
    """Without the scale they would be rounded to 0, and nothing would be learned."""
    x, y = data(64)
    small = Task(lambda: mlp(6, 8, 2), (x, y), loss=lambda o, t: cross_entropy(o, t) * 1e-6)
    recipe = HALF.replace(optimizer="adam", lr=0.02)
    half, full = train(small, recipe), train(small, recipe.replace(precision="float32"))
    assert half.series["overflows"].sum() == 0
    assert half.valid_loss == pytest.approx(full.valid_loss, rel=0.05)


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(RecipeError, match=r"precision='float16' scales the loss, and lbfgs"):
        Recipe(optimizer="lbfgs", precision="float16")
    x, y = data(64)
    halved = Task(lambda: mlp(6, 8, 2).half(), (x.half(), y), loss=cross_entropy)
    with pytest.raises(TaskError, match=r"keeps the weights in float32, but '0.weight' is float16"):
        train(halved, HALF)

    def turns(model, batch):
        yield "0", model(batch[0]).square().mean()

    with pytest.raises(TaskError, match=r"a step that yields has one for each part"):
        train(Task(lambda: mlp(6, 8, 2), (x, y), step=turns), HALF)


@pytest.mark.parametrize("saved", [{"value": math.nan}, {"value": 1.0, "finite": -1}, {"value": 1}])
def test_a_damaged_scale_is_refused(saved):
    with pytest.raises(StorageError, match="its loss scale is"):
        LossScale().load({"finite": 0, "overflows": 0, **saved})


def test_other_recipes_keep_their_checkpoints():
    run = Run(task(), HALF.replace(precision="float32"))
    assert "scale" not in run.state_dict()
    assert {"loss_scale", "overflows"} & set(run.series) == set()
