"""Multipliers in parameter groups: merged, kept, scheduled, resumed, and refused where wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import etude
from etude import Recipe, tasks
from etude.errors import BadTypeError, BadValueError, MovedError, TaskError
from etude.export import pytorch_code
from etude.layerwise import LrMult, apply, rates_of
from etude.layerwise.rates import MOVED
from etude.optimizers import ROWS, build
from etude.optimizers.factory import factory
from etude.recipe import RecipeError
from etude.tasks.models import mlp
from etude.training.run import Run
from etude.training.state.state import RunState


def lstm(depth: int = 2) -> nn.Module:
    return tasks.get("digits-lstm", width=8, depth=depth).build()


def rates_by_name(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}


# ---- groups ----------------------------------------------------------------------------------


def test_whole_tensors_live_in_the_groups_rates() -> None:
    model = tasks.get("digits-cnn").build()
    optimizer = build("sgd", model, lr=0.1, lr_mult={"conv*": 2.0, "head": 0.5}, momentum=0.9)
    found = rates_by_name(optimizer, model)
    for name in found:
        factor = 2.0 if name.startswith("conv") else 0.5 if name.startswith("head") else 1.0
        assert found[name] == 0.1 * factor
    assert all(g["momentum"] == 0.9 for g in optimizer.param_groups)


def test_groups_are_merged_by_equal_multiplier_and_decay() -> None:
    model = tasks.get("digits-transformer", depth=4).build()
    assert len(build("adamw", model, lr=0.1, lr_mult={"*": 2.0}).param_groups) == 1
    assert len(build("adamw", model, lr=0.1, lr_mult={"blocks.?": 2.0}).param_groups) == 2
    assert len(build("adamw", model, lr=0.1, lr_mult="no_decay()").param_groups) == 2
    both = build("adamw", model, lr=0.1, lr_mult={"@policy": "no_decay()", "blocks.0": 2.0})
    assert len(both.param_groups) == 4
    gates = build("adamw", lstm(), lr=0.1, lr_mult={"*[forget]": 3.0, "*[cell]": 2.0})
    assert [g["lr"] for g in gates.param_groups] == [pytest.approx(0.3), 0.1]


def test_the_users_own_groups_keep_their_values() -> None:
    model = tasks.get("digits-mlp").build()
    optimizer = torch.optim.AdamW(
        [
            {"params": model.layers.parameters(), "lr": 0.2, "betas": (0.5, 0.9)},
            {"params": model.head.parameters(), "weight_decay": 0.7},
        ],
        lr=0.1,
    )
    apply(optimizer, model, {"*.bias": 0.5})
    seen = [(g["lr"], g["betas"], g["weight_decay"]) for g in optimizer.param_groups]
    assert seen == [
        (0.2, (0.5, 0.9), 0.01),
        (0.1, (0.5, 0.9), 0.01),
        (0.1, (0.9, 0.999), 0.7),
        (0.05, (0.9, 0.999), 0.7),
    ]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.1),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7),
        lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    ],
)
def test_any_torch_scheduler_keeps_the_ratios(scheduler: object) -> None:
    model = tasks.get("digits-mlp").build()
    optimizer = build("sgd", model, lr=0.1, lr_mult="decay(0.5)")
    own = scheduler(optimizer)  # type: ignore[operator]
    seen = set()
    for _ in range(7):
        rates = [g["lr"] for g in optimizer.param_groups]
        seen.add(rates[2])
        assert rates == pytest.approx([rates[2] / 4, rates[2] / 2, rates[2]])
        optimizer.step()
        own.step()
    assert len(seen) > 3


def test_a_tensor_rate_is_written_in_place() -> None:
    model = tasks.get("digits-mlp").build()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    rates = apply(optimizer, model, {"head": "constant(0, 2) >> constant(3)"})
    rates.bind(10)
    held = [g["lr"] for g in optimizer.param_groups]
    rates.set(0.2, 5)
    assert all(a is b for a, b in zip(held, (g["lr"] for g in optimizer.param_groups), strict=True))
    assert [float(x) for x in held] == pytest.approx([0.2, 0.6])


@given(lr=st.floats(1e-6, 1), step=st.integers(0, 99))
def test_set_writes_rate_times_multiplier(lr: float, step: int) -> None:
    model = mlp(inputs=2, outputs=3, width=4)
    optimizer = build("adamw", model, lr=1.0, lr_mult={"head": "linear(100)", "layers.0": 3.0})
    rates = rates_of(optimizer)
    assert rates is not None
    rates.bind(100)
    rates.set(lr, step)
    found = rates_by_name(optimizer, model)
    assert found["head.weight"] == pytest.approx(lr * (1 - step / 100))
    assert found["layers.0.linear.bias"] == pytest.approx(3 * lr)
    assert found["layers.1.linear.bias"] == lr


def test_a_schedule_that_goes_below_zero_is_caught_at_the_update() -> None:
    model = tasks.get("digits-mlp", width=4).build()
    optimizer = build("sgd", model, lr=1.0, lr_mult={"head": "linear(10) - 0.5"})
    rates = rates_of(optimizer)
    assert rates is not None
    rates.bind(10)
    rates.set(1.0, 3)
    with pytest.raises(BadValueError, match=r"the multiplier of 'head' is -0\.\d+ at update 8"):
        rates.set(1.0, 8)


# ---- the engine ------------------------------------------------------------------------------


def test_training_writes_rate_shape_and_multiplier_into_every_group() -> None:
    task = tasks.get("digits-lstm", width=8)
    recipe = Recipe(
        lr=0.01,
        steps=20,
        schedule="warmup(5) >> cosine()",
        lr_mult={"*[forget]": 3.0, "head": "constant(0, '50%') >> constant(2)"},
    )
    seen = []

    def look(state: RunState) -> None:
        step = state.step - 1
        seen.append(step)
        base = recipe.lr * state.lr_schedule(step)
        found = rates_by_name(state.optimizer, state.model)
        assert found["layers.0.cell.weight_hh_l0"] == pytest.approx(3 * base)
        assert found["head.bias"] == pytest.approx(base * (0 if step < 10 else 2))
        assert state.series["lr"][-1] == base

    etude.train(task, recipe, on_step=look)
    assert seen == list(range(20))


def test_a_scheduled_weight_decay_spares_what_a_policy_spares() -> None:
    recipe = Recipe(steps=10, schedules={"weight_decay": "0.2 * linear()"}, lr_mult="no_decay()")
    task = tasks.get("digits-mlp", width=8)

    def look(state: RunState) -> None:
        decays = [g["weight_decay"] for g in state.optimizer.param_groups]
        assert decays == [pytest.approx(0.2 * (1 - (state.step - 1) / 10)), 0.0]

    etude.train(task, recipe, on_step=look)


RULES = [
    {"*[forget]": 3.0, "head": 0.5},
    {"*[forget]": "constant(0, '40%') >> constant(2)", "@policy": "no_decay()"},
    "unfreeze('60%')",
    "trust(0.1)",
    "mup(base_width=4)",
]


@pytest.mark.parametrize("lr_mult", RULES)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(lr_mult: object, tmp_path) -> None:
    task = tasks.get("digits-lstm", width=8, depth=2)
    recipe = Recipe(lr=0.01, steps=24, lr_mult=lr_mult, batch_size=16)
    straight = etude.train(task, recipe)

    def fail(run: Run) -> None:
        if run.step == 11:
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError, match="the power went"):
        etude.train(task, recipe, folder=tmp_path, on_step=fail)
    resumed = etude.train(task, folder=tmp_path, resume=True)
    assert resumed.recipe == recipe
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert straight.valid_loss == resumed.valid_loss


@pytest.mark.parametrize("lr_mult", RULES)
def test_every_kind_of_multiplier_changes_what_is_learned(lr_mult: object) -> None:
    task = tasks.get("digits-lstm", width=8)
    plain = Recipe(lr=0.01, steps=15, batch_size=16)
    one, other = etude.train(task, plain), etude.train(task, plain.replace(lr_mult=lr_mult))
    assert one.valid_loss != other.valid_loss


def test_multipliers_of_one_change_no_bit() -> None:
    task = tasks.get("digits-lstm", width=8)
    plain = Recipe(lr=0.01, steps=15, batch_size=16)
    one = etude.train(task, plain)
    other = etude.train(task, plain.replace(lr_mult={"*[forget]": 1.0, "*": 1.0}))
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


# ---- the recipe ------------------------------------------------------------------------------


SELECTORS = ["*[forget]", "conv*", "@linear", "a.b & @bias", "x[0:3]", "layers.[01]*", "é.*"]


@given(
    table=st.dictionaries(
        st.sampled_from(SELECTORS),
        st.one_of(
            st.floats(0, 1e6, allow_nan=False),
            st.sampled_from(["linear()", "constant(0, '10%') >> constant(1)"]),
        ),
        min_size=1,
    ),
    policy=st.sampled_from([None, "decay(0.5)", "no_decay() * ends(0.25)"]),
)
def test_toml_and_json_round_trip_in_order(table: dict, policy: str | None) -> None:
    recipe = Recipe(lr_mult=table if policy is None else {**table, "@policy": policy})
    for again in (Recipe.from_toml(recipe.to_toml()), Recipe.from_json(recipe.to_json())):
        assert again == recipe
        assert again.digest == recipe.digest
        assert again.lr_mult is not None
        assert [rule.selector.text for rule in again.lr_mult.rules] == list(table)
    assert hash(recipe.lr_mult) == hash(LrMult.of(recipe.lr_mult.plain()))


def test_the_digest_knows_the_multipliers_and_their_order() -> None:
    digests = {
        Recipe(lr_mult=value).digest
        for value in (
            None,
            {"a": 1.0, "b": 2.0},
            {"b": 2.0, "a": 1.0},
            {"a": 1.0, "b": 3.0},
            "decay(0.5)",
            "decay(0.6)",
        )
    }
    assert len(digests) == 6
    assert "lr_mult" not in Recipe().plain()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"*[forgot]": 2.0}, r"lr_mult: unknown gate 'forgot': did you mean 'forget'"),
        ({"head": -1.0}, r"lr_mult: the multiplier of 'head' is -1\.0"),
        ("deacy()", r"lr_mult: unknown policy 'deacy'"),
        (7, r"lr_mult=7: give a table such as"),
    ],
)
def test_a_recipe_refuses_what_it_cannot_read(value: object, message: str) -> None:
    with pytest.raises((RecipeError, BadTypeError), match=message):
        Recipe(lr_mult=value)


@pytest.mark.parametrize("factor", [0.5, "constant(0, 3) >> constant(2)"])
def test_the_code_of_a_recipe_writes_the_same_rates(factor: object) -> None:
    recipe = Recipe(lr=0.01, lr_mult={"*[forget]": factor, "head": 3.0}, schedule="linear()")
    coded, own = lstm(1), lstm(1)
    own.load_state_dict(coded.state_dict())
    torch.manual_seed(0)
    data = [(torch.randn(4, 8, 8), torch.randint(0, 10, (4,))) for _ in range(10)]
    space = {"model": coded, "train_loader": data, "loss_function": nn.functional.cross_entropy}
    exec(pytorch_code(recipe, 10), space)
    optimizer = build("adamw", own, lr=0.01, lr_mult=recipe.lr_mult)
    rates = rates_of(optimizer)
    assert rates is not None
    rates.bind(10)
    for step, (x, y) in enumerate(data):
        rates.set(0.01 * (1 - step / 10), step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(x), y).backward()
        optimizer.step()
    for one, other in zip(coded.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# ---- refusals --------------------------------------------------------------------------------


def test_every_optimizer_of_the_table_takes_or_refuses_slices_as_its_row_says() -> None:
    for name, row in ROWS.items():
        try:
            factory(row)
        except etude.errors.MissingExtraError:
            continue
        model = nn.LSTM(2, 3)
        if not row.group_rates:
            with pytest.raises(BadValueError, match=f"{name} refuses lr_mult: .*leave lr_mult out"):
                build(name, model, lr=0.01, lr_mult={"*": 0.5})
        elif row.linear:
            build(name, model, lr=0.01, lr_mult={"*[forget]": 0.5})
        else:
            with pytest.raises(BadValueError, match=f"{name} refuses multipliers of slices"):
                build(name, model, lr=0.01, lr_mult={"*[forget]": 0.5})
            build(name, model, lr=0.01, lr_mult={"weight_hh*": 0.5})


@pytest.mark.parametrize("name", [n for n, row in ROWS.items() if row.linear and row.group_rates])
def test_rows_called_linear_are(name: str) -> None:
    # The claim that slices rest on: one rate's step is the other's times their ratio.
    try:
        factory(ROWS[name])
    except etude.errors.MissingExtraError:
        pytest.skip("its library is not installed")
    moves = []
    for lr in (0.01, 0.03):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        optimizer = build(name, [weight], lr=0.01)
        for step in range(4):
            optimizer.param_groups[0]["lr"] = lr if step == 3 else 0.01
            weight.grad = torch.sin(weight.detach() * (step + 1))
            before = weight.detach().clone()
            optimizer.step()
        moves.append(weight.detach() - before)
    torch.testing.assert_close(moves[1], 3 * moves[0], rtol=1e-9, atol=1e-12)


def test_optimizers_that_are_not_in_the_table() -> None:
    class Own(torch.optim.Optimizer):
        def __init__(self, params: object) -> None:
            super().__init__(params, {"lr": 0.1})  # type: ignore[arg-type]

        def step(self) -> None:  # type: ignore[override]
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p -= group["lr"] * p.grad

    model = nn.LSTM(2, 3)
    with pytest.raises(BadValueError, match="Own is not known to have an update that is linear"):
        apply(Own(model.parameters()), model, {"*[forget]": 2.0})
    apply(Own(model.parameters()), model, {"weight*": 2.0})
    optimizer = Own(model.parameters())
    apply(optimizer, model, {"*[forget]": 2.0}, linear=True)
    before = model.bias_hh_l0.detach().clone()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = (before - model.bias_hh_l0).tolist()
    assert moved == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.1] * 6)
    for kind, why in ((torch.optim.ASGD, "not linear"), (torch.optim.Rprop, "first update only")):
        with pytest.raises(BadValueError, match=f"{kind.__name__} refuses .*{why}"):
            apply(kind(model.parameters()), model, {"*[forget]": 2.0})


def test_a_parameter_that_reaches_no_optimizer() -> None:
    model = tasks.get("digits-mlp").build()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with pytest.raises(TaskError, match=r"layers\.0\.linear\.weight and 3 more would not be trai"):
        apply(optimizer, model, {"head": 2.0})
    with pytest.raises(TaskError, match="holds 2 parameters that are not the model's"):
        apply(torch.optim.SGD(model.parameters(), lr=0.1), model.layers, {"*": 2.0})


def test_what_was_applied_before() -> None:
    model = tasks.get("digits-mlp").build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 3)
    with pytest.raises(BadValueError, match="a scheduler was built on this optimizer already"):
        apply(optimizer, model, {"head": 2.0})
    optimizer = build("sgd", model, lr=0.1, lr_mult={"head": 2.0})
    with pytest.raises(BadValueError, match="has multipliers already: build a new one"):
        apply(optimizer, model, {"head": 2.0})
    with pytest.raises(BadTypeError, match="give the model, not its parameters"):
        build("sgd", list(model.parameters()), lr=0.1, lr_mult={"head": 2.0})
    assert rates_of(build("sgd", model, lr=0.1)) is None


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_of_the_rates_says_the_new_one(old: str, new: str) -> None:
    model = tasks.get("digits-mlp").build()
    rates = rates_of(build("sgd", model, lr=0.1, lr_mult={"head": 0.0}))
    assert hasattr(rates, new)
    assert not hasattr(rates, old)
    with pytest.raises(MovedError, match=f"Rates.{old} is now Rates.{new}"):
        getattr(rates, old)
