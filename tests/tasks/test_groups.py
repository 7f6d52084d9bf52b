"""Parameter groups of a task's own, steps that return tables, updates within an epoch."""

import copy
import re
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import etude
from etude.errors import BadTypeError, BadValueError, TaskError
from etude.optimizers import build
from etude.tasks.groups import groups_of
from etude.tasks.references.fingerprint import fingerprint
from etude.tasks.sources.loaders import LoaderData
from tests.helpers import data, mlp, task

RECIPE = etude.Recipe(optimizer="adamw", lr=0.02, steps=12, batch_size=16, evaluations=1)


def with_groups(groups, **more):
    return replace(task(), param_groups=groups, **more)


def halves(first=None, second=None):
    def groups(model):
        return [
            {"params": model[0].parameters(), **(first or {})},
            {"params": model[2].parameters(), **(second or {})},
        ]

    return groups


def losses(of, recipe=RECIPE):
    return list(etude.train(of, recipe).series["loss"])


def by_torch(groups, recipe=RECIPE, schedule=None):
    """The losses of the same training, with torch's optimizer and groups written out."""
    run = etude.training.run.Run(task(), recipe)
    optimizer = torch.optim.AdamW(groups(run.model), lr=recipe.lr)
    rates = [group["lr"] for group in optimizer.param_groups]
    stream = run.task.train.stream(16, recipe.seed, etude.tasks.sources.data.Cursor())
    factor = run.state.lr_schedule
    found = []
    for t in range(run.length):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(t)
            for name, s in (schedule or {}).items():
                if not group.get("kept"):
                    group[name] = s(t)
        x, y = next(stream)
        loss = cross_entropy(run.model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@settings(max_examples=10, deadline=None)
@given(
    decay=st.floats(0.0, 1.0),
    share=st.floats(0.01, 1.0),
    betas=st.tuples(st.floats(0.1, 0.9), st.floats(0.5, 0.99)),
)
def test_groups_train_as_in_torch(decay, share, betas):
    ours = with_groups(
        halves({"lr": 0.3 * share, "betas": betas}, {"lr": 0.3, "weight_decay": decay})
    )
    theirs = halves(
        {"lr": RECIPE.lr * share, "betas": betas}, {"lr": RECIPE.lr, "weight_decay": decay}
    )
    assert losses(ours) == pytest.approx(by_torch(theirs), rel=1e-5)


def test_lr_mult_is_a_multiple_of_the_recipes_rate():
    ours = with_groups(halves({"lr_mult": 3.0}))
    assert losses(ours) == pytest.approx(by_torch(halves({"lr": 3 * RECIPE.lr})), rel=1e-6)


def test_the_proportion_stays_at_any_rate():
    one, two = (with_groups(halves({"lr": a}, {"lr": b})) for a, b in ((0.1, 0.3), (1.0, 3.0)))
    assert losses(one) == losses(two)


def test_multipliers_of_the_recipe_come_on_top():
    recipe = RECIPE.replace(lr_mult={"0.*": 0.5})
    ours = losses(with_groups(halves({"lr_mult": 4.0})), recipe)
    assert ours == losses(with_groups(halves({"lr_mult": 2.0})))


def test_no_schedule_changes_what_a_group_sets_itself():
    recipe = RECIPE.replace(schedules={"weight_decay": "0.5 * linear()"})
    ours = losses(with_groups(halves({"weight_decay": 0.0})), recipe)
    schedule = etude.schedules.parse("0.5 * linear(12)")
    theirs = by_torch(
        halves({"weight_decay": 0.0, "kept": True}), schedule={"weight_decay": schedule}
    )
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_parameters_in_no_group_are_not_trained():
    record = etude.train(with_groups(lambda model: [{"params": model[2].parameters()}]), RECIPE)
    first = etude.training.run.Run(task(), RECIPE).model
    assert torch.equal(record.model[0].weight, first[0].weight)
    assert not torch.equal(record.model[2].weight, first[2].weight)
    assert not record.model[0].weight.requires_grad


@pytest.mark.parametrize("zero", [({"lr": 0.0}, {"lr": 1.0}), ({"lr_mult": 0}, {})])
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.05}, {"l2": 0.1, "clip_percentile": 50}])
def test_a_group_with_a_rate_of_0_is_one_without_gradient(zero, more):
    recipe = RECIPE.replace(**more)
    still = etude.train(with_groups(halves(*zero)), recipe)
    left_out = etude.train(with_groups(lambda model: [{"params": model[2].parameters()}]), recipe)
    for name in ("loss", "grad_norm", "penalty"):
        ours, theirs = (list(one.series.get(name, ())) for one in (still, left_out))
        assert ours == theirs
    assert torch.equal(still.model[2].weight, left_out.model[2].weight)


def test_no_groups_and_one_group_are_the_same_bits():
    assert losses(task()) == losses(with_groups(lambda model: [{"params": model.parameters()}]))


def test_the_pool_and_a_resumed_run_have_the_same_bits():
    grouped = with_groups(halves({"lr": 0.1}, {"lr": 1.0, "weight_decay": 0.3}))
    run, again = (etude.training.run.Run(grouped, RECIPE) for _ in range(2))
    run.advance(5)
    again.load_state_dict(copy.deepcopy(run.state_dict()))
    run.advance()
    again.advance()
    assert run.series["loss"] == again.series["loss"] == losses(grouped)
    pool = etude.engines.PoolEngine(2)
    runs = [etude.training.run.Run(grouped, RECIPE.replace(lr=lr)) for lr in (0.02, 0.01)]
    try:
        pool.advance(runs)
    finally:
        pool.close()
    assert runs[0].series["loss"] == run.series["loss"]


def test_such_a_task_is_not_stacked():
    from etude.engines.vmap.eligibility import why_not_stackable

    run = etude.training.run.Run(with_groups(halves()), RECIPE)
    assert "parameter groups of its own" in why_not_stackable(run)


def test_its_digest_knows_the_groups():
    one, two = with_groups(halves({"lr": 1.0}, {"lr": 2.0})), with_groups(halves())
    assert fingerprint(one)["param_groups"] != fingerprint(two)["param_groups"]
    assert "param_groups" not in fingerprint(task())


def test_one_rate_for_all_refuses_groups_with_others():
    recipe = RECIPE.replace(optimizer="lbfgs", schedule="constant()")
    with pytest.raises(BadValueError, match="lbfgs refuses parameter groups with separate rates"):
        etude.training.run.Run(with_groups(halves({"lr_mult": 2.0})), recipe)


WRONG = [
    (lambda model: model.parameters(), BadTypeError, "returned a Parameter in a list: give a list"),
    (lambda model: None, BadTypeError, "returned a NoneType: give a list of tables"),
    (lambda model: [{"params": [3]}], BadTypeError, "not all tensors"),
    (lambda model: [], TaskError, "lists no parameter: there is nothing to train"),
    (lambda model: [{"params": nn.Linear(1, 1).parameters()}], TaskError, "not the model's: take"),
    (lambda model: [{"params": [model[0].bias]}] * 2, TaskError, "lists '0.bias' twice"),
    (halves({"lr": 0.1}), BadValueError, "1 of 2 parameter groups have their own 'lr'"),
    (halves({"lr": -0.1}, {"lr": 1.0}), BadValueError, r"lr=-0\.1 of a parameter group: give a"),
    (halves({"lr_mult": float("nan")}), BadValueError, "lr_mult=nan of a parameter group"),
    (halves({"lr": 0.0}, {"lr": 0.0}), BadValueError, "every parameter group has lr=0"),
    (halves({"lr_mult": 0}, {"lr_mult": 0}), BadValueError, "every parameter group has lr_mult=0"),
    (lambda model: model.nothing, TaskError, "param_groups failed: .*nothing"),
]


@pytest.mark.parametrize(("groups", "kind", "message"), WRONG)
def test_groups_that_are_none(groups, kind, message):
    with pytest.raises(kind, match=message):
        groups_of(groups, mlp())
    with pytest.raises(BadTypeError, match="param_groups is a list: give a function"):
        with_groups([])


class Answers(nn.Module):
    """Returns its loss in a table, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x, y):
        scores = self.net(x)
        return {"loss": cross_entropy(scores, y), "logits": scores}


def test_a_step_may_return_a_table_with_the_loss():
    x, y = data()
    table = etude.Task(Answers, (x, y), step=lambda model, batch: model(*batch))
    plain = etude.Task(Answers, (x, y), step=lambda model, batch: model(*batch)["loss"])
    recipe = RECIPE.replace(accumulate=2)
    assert losses(table, recipe) == losses(plain, recipe)
    bare = etude.Task(
        Answers, (x, y), step=lambda model, batch: {"logits": model(*batch)["logits"]}
    )
    with pytest.raises(TaskError, match="returned a dict with 'logits', and no 'loss': put the"):
        losses(bare)


class WholeEpochs(LoaderData):
    whole_epochs = True


@settings(max_examples=10, deadline=None)
@given(batches=st.integers(1, 7), accumulate=st.integers(1, 4))
def test_an_update_within_an_epoch_is_the_mean_over_the_batches_that_are_left(batches, accumulate):
    x, y = data(8 * batches)
    loader = DataLoader(TensorDataset(x, y), batch_size=8)
    whole = replace(task(), train=WholeEpochs(loader))
    recipe = RECIPE.replace(accumulate=accumulate, batch_size=None, steps="2 epochs")
    ours = losses(whole, recipe)
    per_epoch = -(-batches // accumulate)
    assert len(ours) == 2 * per_epoch
    model = etude.training.run.Run(whole, recipe).model
    first = min(accumulate, batches) * 8
    assert ours[0] == pytest.approx(cross_entropy(model(x[:first]), y[:first]).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "group", "said"),
    [
        ("adamw", {"weight_decy": 0.1}, r"'weight_decy' to 0\.1, which adamw .*'weight_decay'\?"),
        ("lion", {"maximize": True}, "'maximize' to True, which lion does not read: it has no"),
        ("adamw", {"maximize": True, "name": "all"}, ""),
        ("lion", {"maximize": False, "param_names": ["a"]}, ""),
    ],
)
def test_a_value_that_the_optimizer_does_not_read_is_named(optimizer, group, said):
    model = torch.nn.Linear(2, 2)
    groups = [{"params": list(model.parameters()), **group}]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        build(optimizer, model, lr=0.1, groups=groups)
    found = [str(one.message) for one in told if "param_groups" in str(one.message)]
    assert len(found) == bool(said)
    assert not said or re.search(said, found[0])
