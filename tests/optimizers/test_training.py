"""Every row of the table trains a real task, and goes on to the bit where it was interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from etude import Recipe, Task, tasks, train
from etude.errors import BadValueError, TaskError
from etude.optimizers import ROWS, build
from etude.storage.state_tree import flatten, unflatten
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from tests.helpers import INSTALLED

NAMES = [row.name for row in INSTALLED]
STEPS = {"newton": 6, "newton_cg": 12, "lbfgs": 1}
RATES = {"lars": 10.0}


@pytest.fixture(scope="module")
def digits() -> Task:
    return tasks.load("digits-mlp", width=8, depth=1)


def recipe_for(name: str, **fields: object) -> Recipe:
    row = ROWS[name]
    usual = {
        "lr": RATES.get(name, 10**row.centre),
        "steps": STEPS.get(name, 120),
        "batch_size": "all" if row.closure else 64,
        "schedule": "constant()" if row.closure else "warmup('5%') >> cosine()",
    }
    return Recipe(optimizer=name, **{**usual, **fields})


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_to_read_digits(name, digits):
    record = train(digits, recipe_for(name), evaluations=1)
    assert record.status == "finished"
    assert record.valid_loss < 0.62 * record.evaluations[0].loss
    assert record.valid_metric > 0.5


def bits(run: Run) -> list[torch.Tensor]:
    _, tensors = flatten({k: v for k, v in run.state_dict().items() if not k.endswith("seconds")})
    return [tensors[key] for key in sorted(tensors)]


@pytest.mark.parametrize("name", NAMES)
def test_resumed_equals_uninterrupted(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(96, 6, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2)
        )

    task = Task(model, (x, y), loss=cross_entropy)
    recipe = recipe_for(name, steps=9, batch_size=32, **({"lr": 0.1} if name == "lars" else {}))

    def state_after(run: Run) -> tuple[object, dict[str, torch.Tensor]]:
        return flatten(run.state_dict())

    whole = Run(task, recipe)
    whole.advance(AdvanceRequest(evaluation_steps={0, 3, 9}))
    for at in (1, 4, 8):
        first = Run(task, recipe)
        first.advance(AdvanceRequest(at, evaluation_steps={0, 3, 9}))
        second = Run(task, recipe)
        second.load_state_dict(unflatten(*state_after(first)))
        second.advance(AdvanceRequest(evaluation_steps={0, 3, 9}))
        for one, other in zip(bits(whole), bits(second), strict=True):
            assert torch.equal(one, other), at
        assert second.record().cost.gradients == whole.record().cost.gradients
        assert second.evaluations == whole.evaluations


# ---- closures ----------------------------------------------------------------------------


def line() -> Task:
    x = torch.linspace(-1, 1, 40)[:, None]
    return Task(lambda: nn.Linear(1, 1), (x, 3 * x - 1), loss=mse_loss, valid=(x, 3 * x - 1))


@pytest.mark.parametrize("name", ["lbfgs", "newton", "newton_cg"])
def test_a_quadratic_is_solved_in_a_few_updates(name):
    record = train(line(), Recipe(optimizer=name, steps=8, batch_size="all"), evaluations=1)
    assert record.valid_loss < 1e-6


def test_every_evaluation_inside_an_update_is_paid_for():
    plain = train(line(), Recipe(optimizer="sgd", lr=0.1, steps=5, batch_size=8, accumulate=2))
    assert plain.cost.gradients == 5 * 2 * 8
    calls = 0

    def counting(output, target):
        nonlocal calls
        calls += torch.is_grad_enabled() or output.requires_grad
        return mse_loss(output, target)

    x = torch.linspace(-1, 1, 40)[:, None]
    task = Task(lambda: nn.Linear(1, 1), (x, 3 * x), loss=counting, valid=(x, 3 * x))
    run = Run(task, Recipe(optimizer="lbfgs", steps=3, batch_size=8, accumulate=2))
    run.advance()
    assert run.record().cost.gradients == calls * 8
    newton = Run(line(), Recipe(optimizer="newton", steps=2, batch_size=10))
    newton.advance()
    # An update: its gradient, the graph, two products at two each, and one look where it lands.
    assert newton.record().cost.gradients == 2 * (1 + 1 + 2 * 2 + 1) * 10


def test_a_closure_is_one_function_of_the_weights():
    """Dropout and batch statistics are the same at every evaluation within an update."""
    from etude.training.objective import Closure

    torch.manual_seed(0)
    x, y = torch.randn(32, 4), torch.randn(32, 1)
    task = Task(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)),
        (x, y),
        loss=mse_loss,
    )
    run = Run(task, Recipe(optimizer="lbfgs", steps=2, batch_size=16))
    again = Closure(run.objective, [(x, y)], run.optimizer, graph=False, draws=False)
    again.first()
    values = [float(again()) for _ in range(4)]
    assert len(set(values)) == 1
    assert again.count == 3
    assert run.model[1].num_batches_tracked == 1


def test_a_line_search_refuses_a_clipped_gradient():
    with pytest.raises(BadValueError, match=r"clip_value=1\.0: newton_cg compares losses along"):
        Recipe(optimizer="newton_cg", clip_value=1.0)


def test_second_derivatives_of_attention_and_recurrence():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            x = x + self.attention(x, x, x, need_weights=False)[0]
            return self.head(self.lstm(x)[0][:, -1])

    x = torch.randn(24, 5, 4, generator=torch.Generator().manual_seed(0))
    task = Task(Net, (x, x.sum((1, 2))[:, None]), loss=mse_loss)
    record = train(task, Recipe(optimizer="newton_cg", steps=4, batch_size="all"), evaluations=1)
    assert (np.diff(record.series["loss"]) < 0).all()


# ---- eval modes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [row.name for row in INSTALLED if row.eval_mode])
def test_evaluation_is_at_the_averaged_weights_and_leaves_no_trace(name, digits):
    recipe = recipe_for(name, steps=20)
    often, once = Run(digits, recipe), Run(digits, recipe)
    often.advance(AdvanceRequest(evaluation_steps=often.state.evenly_spaced(20)))
    once.advance(AdvanceRequest(evaluation_steps={20}))
    for one, other in zip(often.model.parameters(), once.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert often.evaluations[-1] == once.evaluations[-1]

    by_hand = Run(digits, recipe)
    by_hand.advance(19)
    by_hand.optimizer.eval()
    judged = by_hand.evaluate().loss
    mid = next(e for e in often.evaluations if e.step == 19)
    assert judged == pytest.approx(mid.loss, rel=1e-5)
    training = Run(digits, recipe)
    training.advance(19)
    training._evaluation_weights = None
    assert training.evaluate().loss != pytest.approx(mid.loss, rel=1e-5)


@pytest.mark.parametrize("name", [row.name for row in INSTALLED if row.eval_mode])
def test_batch_statistics_belong_to_the_weights_that_are_judged(name):
    torch.manual_seed(0)
    x = torch.randn(128, 5) * 3 + 1
    task = Task(
        lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)),
        (x, x.sum(1, keepdim=True)),
        loss=mse_loss,
    )
    run = Run(task, recipe_for(name, steps=12, batch_size=102, lr=0.01))
    run.advance(AdvanceRequest(evaluation_steps={12}))
    with torch.no_grad():
        inner = run.model[0](task.train.tensors[0])
    norm = run.model[1]
    torch.testing.assert_close(norm.running_mean, inner.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var, inner.var(0), rtol=1e-4, atol=1e-4)
    assert norm.momentum == 0.1


# ---- sparse gradients --------------------------------------------------------------------


def words(*, sparse: bool = True) -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 50, (128, 6), generator=generator)
    y = (x < 25).float().mean(1, keepdim=True)

    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(50, 4, sparse=sparse), nn.Flatten(), nn.Linear(24, 1))

    return Task(model, (x, y), loss=mse_loss)


@pytest.mark.parametrize("name", NAMES)
def test_sparse_gradients_train_or_are_refused_by_name(name):
    fields = {"optimizer": name, "steps": 40, "batch_size": 32, "lr": 10 ** ROWS[name].centre / 4}
    recipe = Recipe(**fields)
    if ROWS[name].sparse == "no":
        message = (
            f"{name} does not take sparse gradients, and that of '0.weight' is sparse: use sgd"
        )
        with pytest.raises(TaskError, match=message):
            train(words(), recipe)
        return
    for extra in ({}, {"clip_norm": 0.5}, {"clip_adaptive": 0.1, "clip_value": 0.1}, {"l2": 1e-3}):
        record = train(words(), recipe.replace(**extra), evaluations=1)
        assert record.valid_loss < record.evaluations[0].loss


def test_a_sparse_gradient_found_on_the_way_is_refused_before_the_first_update():
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Parameter(torch.ones(50, 1))

        def forward(self, x):
            return nn.functional.embedding(x, self.rows, sparse=True).mean(1)

    task = Task(Table, words().train.tensors, loss=mse_loss)
    with pytest.raises(TaskError, match="adamw does not take sparse gradients, and that of 'rows'"):
        train(task, Recipe(steps=3, batch_size=16))
    weighed = {"name": "sgd", "weight_decay": 0.1}
    with pytest.raises(TaskError, match="only without weight decay: give weight_decay=0"):
        train(task, Recipe(optimizer=weighed, steps=3, batch_size=16))


def test_lazy_and_dense_adam_agree_where_every_row_is_seen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Linear(3, 1)).double()
    twin = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 1)).double()
    twin.load_state_dict(model.state_dict())
    one, other = build("sparse_adam", model, lr=0.1), build("adam", twin, lr=0.1)
    for _ in range(5):
        for net, optimizer in ((model, one), (twin, other)):
            optimizer.zero_grad()
            net(torch.arange(4)).square().sum().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# ---- rates -------------------------------------------------------------------------------


def test_recipes_that_leave_rate_and_schedule_out():
    for name, row in ROWS.items():
        recipe = Recipe(optimizer=name)
        assert recipe.lr == (1.0 if row.rate_free else 1e-3)
        if row.closure:
            assert repr(recipe.schedule) == "constant()"
        assert Recipe(optimizer=name, lr=0.5, schedule="cosine()").lr == 0.5
        assert Recipe.from_toml(recipe.to_toml()) == recipe


def test_all_samples_in_one_batch_is_batch_descent():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    y = x.sum(1, keepdim=True)
    task = Task(lambda: nn.Linear(2, 1), (x, y), valid=(x, y), loss=mse_loss)
    run = Run(
        task, Recipe(optimizer="sgd", lr=0.1, steps=3, batch_size="all", schedule="constant()")
    )
    twin = nn.Linear(2, 1)
    twin.load_state_dict(run.model.state_dict())
    run.advance()
    for _ in range(3):
        twin.zero_grad()
        mse_loss(twin(x), y).backward()
        with torch.no_grad():
            for p in twin.parameters():
                p -= 0.1 * p.grad
    for a, b in zip(run.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert run.record().cost.gradients == 90
    assert Run(task, Recipe(steps="4 epochs", batch_size="all")).length == 4


@pytest.mark.parametrize(
    ("optimizer", "name", "read"),
    [
        ("adam", "momentum", lambda g: g["betas"][0]),
        ("adam", "beta1", lambda g: g["betas"][0]),
        ("adam", "beta2", lambda g: g["betas"][1]),
        ("sgd", "momentum", lambda g: g["momentum"]),
        ("muon", "momentum", lambda g: g["momentum"]),
        ("muon", "weight_decay", lambda g: g["weight_decay"]),
        ("lamb", "beta2", lambda g: g["betas"][1]),
        ("averaged_momentum", "momentum", lambda g: g["momentum"]),
        ("newton", "damping", lambda g: g["damping"]),
    ],
)
def test_schedules_of_other_values_are_written(optimizer, name, read):
    seen = []
    recipe = Recipe(
        optimizer=optimizer,
        steps=4,
        batch_size=8,
        schedules={name: "0.4 * linear(end=0.5)"},
    )
    train(
        line(),
        recipe,
        probes={"value": lambda run: seen.append(read(run.optimizer.param_groups[0])) or 0.0},
    )
    assert seen == pytest.approx([0.4, 0.35, 0.3, 0.25])


@pytest.mark.skipif("schedulefree_sgd" not in NAMES, reason="schedulefree is not installed")
def test_statistics_are_taken_from_mixed_batches_also_where_the_data_is_sorted():
    x = torch.cat([torch.zeros(64, 2), torch.ones(64, 2)])
    task = Task(
        lambda: nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)),
        (x, x[:, :1]),
        valid=(x, x[:, :1]),
        loss=mse_loss,
    )
    run = Run(task, recipe_for("schedulefree_sgd", steps=2, batch_size=32, lr=0.01))
    run.advance(AdvanceRequest(evaluation_steps={2}))
    torch.testing.assert_close(run.model[0].running_mean, torch.full((2,), 0.5))
    assert (run.model[0].running_var > 0.2).all()
