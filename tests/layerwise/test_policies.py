"""Each named policy by its formula, on real models; the text form; trust ratios against LAMB."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etude import tasks
from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.layerwise import POLICIES, LrMult, apply, parse_policies, plan, rates_of
from etude.optimizers import build
from etude.schedules import Schedule
from etude.tasks.models import mlp


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return tasks.get("digits-resnet").build()


def multipliers(text: str, model: nn.Module) -> dict[str, object]:
    return {row.name: row.multiplier for row in plan(text, model).rows}


@given(factor=st.floats(0.1, 2.0))
def test_decay_is_a_power_of_the_distance_from_the_output(factor: float) -> None:
    model = mlp(inputs=4, outputs=2, width=3, depth=3)
    found = multipliers(f"decay({factor!r})", model)
    for depth, name in enumerate(["layers.0.linear", "layers.1.linear", "layers.2.linear", "head"]):
        assert found[f"{name}.weight"] == found[f"{name}.bias"] == factor ** (3 - depth)


def test_decay_takes_depths_that_are_given(resnet: nn.Module) -> None:
    found = multipliers("decay(0.5, layers=['stem*', 'stages*', 'head'])", resnet)
    assert found["stem.0.weight"] == 0.25
    assert found["stages.0.0.conv1.weight"] == found["stages.1.0.norm2.bias"] == 0.5
    assert found["head.weight"] == 1.0
    with pytest.raises(BadValueError, match=r"stem\.0\.weight matches none of layers="):
        multipliers("decay(0.5, layers=['stages*', 'head'])", resnet)
    with pytest.raises(BadValueError, match=r"layers: 'tail' matches no parameter"):
        multipliers("decay(0.5, layers=['stem*', 'stages*', 'head', 'tail'])", resnet)


def test_discriminative_divides_by_2_6_each_layer() -> None:
    model = tasks.get("text-lstm", depth=2).build()
    found = multipliers("discriminative()", model)
    assert found["embedding.weight"] == pytest.approx(2.6**-3)
    assert found["layers.0.cell.weight_hh_l0"] == pytest.approx(2.6**-2)
    assert found["layers.1.cell.bias_ih_l0"] == pytest.approx(1 / 2.6)
    assert found["head.bias"] == 1.0


def test_ends_are_small_and_the_middle_large(resnet: nn.Module) -> None:
    found = multipliers("ends(0.25, 2)", resnet)
    assert {found["stem.0.weight"], found["head.bias"]} == {0.25}
    assert {found["stages.0.0.conv1.weight"], found["stages.1.0.norm1.bias"]} == {2.0}
    with pytest.raises(BadValueError, match="2 layers and none between the first and the last"):
        multipliers("ends(0.5)", nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)))


def test_kinds_set_convolutions_against_full_layers() -> None:
    found = multipliers("kinds(convolution=2.0, linear=0.5)", tasks.get("digits-cnn").build())
    assert {v for k, v in found.items() if k.startswith("convs")} == {2.0}
    assert {v for k, v in found.items() if not k.startswith("convs")} == {0.5}
    with pytest.raises(BadValueError, match="the model has no convolution layer; it has linear"):
        multipliers("kinds(convolution=2.0)", tasks.get("digits-mlp").build())


def test_freeze_for_good_and_for_a_while(resnet: nn.Module) -> None:
    found = multipliers("freeze('stem*')", resnet)
    assert found["stem.0.weight"] == 0.0
    assert found["head.weight"] == 1.0
    moving = multipliers("freeze('stem*', '10%') * freeze('@output', 5)", resnet)
    stem, head = moving["stem.0.weight"], moving["head.bias"]
    assert isinstance(stem, Schedule)
    assert isinstance(head, Schedule)
    assert [stem.over(100)(t) for t in (0, 9, 10, 99)] == [0, 0, 1, 1]
    assert [head.over(100)(t) for t in (4, 5)] == [0, 1]
    with pytest.raises(BadValueError, match=r"matches no parameter: did you mean 'stem'"):
        multipliers("freeze('stems')", resnet)
    with pytest.raises(BadValueError, match="freezes every parameter: nothing is left"):
        multipliers("freeze('*')", resnet)


@pytest.mark.parametrize(
    ("text", "joins"),
    [
        ("unfreeze('60%')", [60, 40, 20, 0]),
        ("unfreeze(each=7)", [21, 14, 7, 0]),
        ("unfreeze(each='5%')", [15, 10, 5, 0]),
        ("unfreeze()", [50, 33, 17, 0]),
    ],
)
def test_unfreezing_goes_from_the_output_to_the_input(
    text: str, joins: list[int], resnet: nn.Module
) -> None:
    laid = plan(text, resnet).over(100)
    for row in laid.rows:
        at = joins[row.part.depth]
        if at == 0:
            assert row.multiplier == 1.0
            continue
        assert isinstance(row.multiplier, Schedule)
        assert (row.multiplier(at - 1), row.multiplier(at)) == (0, 1)


def test_no_decay_spares_biases_and_norms_and_nothing_else() -> None:
    model = tasks.get("text-transformer").build()
    optimizer = build("adamw", model, lr=0.1, lr_mult="no_decay()", weight_decay=0.3)
    spared = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    held = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0.3 for p in g["params"]}
    for name, p in model.named_parameters():
        assert (id(p) in spared) == (p.dim() == 1), name
        assert (id(p) in spared) != (id(p) in held)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1}
    wider = build("adamw", model, lr=0.1, lr_mult="no_decay(embedding=True)", weight_decay=0.3)
    spared = {id(p) for g in wider.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert id(model.embedding.weight) in spared


def test_no_decay_needs_a_decay() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(
        BadValueError, match="changes the weight decay, and this optimizer has none"
    ):
        apply(torch.optim.Rprop(model.parameters()), model, "no_decay()")


def test_rules_and_policies_multiply() -> None:
    model = tasks.get("digits-lstm").build()
    table = {"@policy": "decay(0.5) * no_decay()", "*[forget]": 4.0, "head": 3.0}
    rows = {row.name: row for row in plan(table, model).rows}
    assert rows["layers.0.cell.weight_hh_l0[forget]"].multiplier == 2.0
    assert rows["layers.0.cell.weight_hh_l0[rest]"].multiplier == 0.5
    assert rows["head.weight"].multiplier == 3.0
    assert rows["head.bias"].decay == 0.0
    assert rows["layers.0.cell.bias_hh_l0[forget]"].rule == "*[forget] × decay × no_decay"


# ---- trust ratios ----------------------------------------------------------------------------


def test_trust_around_adamw_is_lamb() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    twin = {n: p.detach().clone() for n, p in model.named_parameters()}
    settings = {"betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    optimizer = build("adamw", model, lr=0.05, lr_mult="trust()", **settings)
    first = {n: torch.zeros_like(p) for n, p in twin.items()}
    second = {n: torch.zeros_like(p) for n, p in twin.items()}
    for t in range(1, 7):
        optimizer.zero_grad()
        (model(torch.randn(5, 3, dtype=torch.float64)) ** 2).sum().backward()
        for n, p in model.named_parameters():
            assert p.grad is not None
            first[n] = 0.9 * first[n] + 0.1 * p.grad
            second[n] = 0.99 * second[n] + 0.01 * p.grad**2
            adam = (first[n] / (1 - 0.9**t)) / ((second[n] / (1 - 0.99**t)).sqrt() + 1e-6)
            update = adam + 0.1 * twin[n]
            ratio = twin[n].norm() / update.norm() if p.dim() > 1 else 1.0
            twin[n] = twin[n] - 0.05 * ratio * update
        optimizer.step()
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), twin[n], rtol=1e-6, atol=1e-9)


def test_trust_around_sgd_moves_by_a_share_of_the_norm_and_obeys_its_bounds() -> None:
    model = nn.Linear(3, 4, bias=False).double()
    before = model.weight.detach().clone()
    optimizer = build("sgd", model, lr=0.1, lr_mult="trust(0.01)")
    model.weight.grad = 7.0 * torch.randn_like(before)
    direction = model.weight.grad.clone()
    optimizer.step()
    change = model.weight.detach() - before
    assert change.norm().item() == pytest.approx(0.1 * 0.01 * before.norm().item())
    torch.testing.assert_close(change / change.norm(), -direction / direction.norm())
    for text, norm in (("trust(high=0.5)", 0.5), ("trust(low=9.0)", 9.0)):
        model.weight.data.copy_(before)
        optimizer = build("sgd", model, lr=0.1, lr_mult=text)
        optimizer.step()
        change = model.weight.detach() - before
        assert change.norm().item() == pytest.approx(0.1 * norm, rel=1e-6)


def test_trust_keeps_its_rate_after_a_state_is_loaded() -> None:
    model = nn.Linear(3, 4, bias=False).double()
    optimizer = build("sgd", model, lr=0.1, lr_mult="trust(0.01)")
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.2
    optimizer.load_state_dict(state)
    before = model.weight.detach().clone()
    model.weight.grad = torch.randn_like(before)
    optimizer.step()
    moved = (model.weight.detach() - before).norm().item()
    assert moved == pytest.approx(0.2 * 0.01 * before.norm().item())


def test_trust_and_a_slice_of_the_same_tensor_exclude_each_other() -> None:
    with pytest.raises(
        BadValueError, match=r"weight_ih_l0\[forget\]: a trust ratio applies to a wh"
    ):
        plan({"@policy": "trust()", "*[forget]": 2.0}, nn.LSTM(2, 3))
    only_biases = plan({"@policy": "trust()", "bias*[forget]": 2.0}, nn.LSTM(2, 3))
    assert only_biases.trust is not None


def test_trust_on_a_model_of_vectors_scales_nothing() -> None:
    with pytest.raises(BadValueError, match=r"trust\(\) scales nothing"):
        build("sgd", nn.LayerNorm(3), lr=0.1, lr_mult="trust()")


# ---- the text form ---------------------------------------------------------------------------

TEXTS = [
    "decay()",
    "decay(0.5)",
    "decay(0.5, layers=('a*', 'b'))",
    "discriminative(2.0)",
    "ends(0.1, 2.0)",
    "ends(inner=3.0)",
    "kinds(linear=0.5)",
    "mup(64)",
    "mup(64, init=False)",
    "mup(ratios=(('a.weight', (1.0, 4.0)),))",
    "freeze()",
    "freeze('embedding*', '10%')",
    "unfreeze(each='1 epochs')",
    "no_decay(True)",
    "trust(0.001, high=10.0)",
    "hyperball()",
    "lora_plus()",
    "lora_plus(4.0, second='*.up.weight')",
    "decay(0.5) * no_decay() * trust()",
    "freeze('a*') * freeze('b*', 10)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trip(text: str) -> None:
    policies = parse_policies(text)
    again = " * ".join(map(repr, policies))
    assert parse_policies(again) == policies
    assert hash(LrMult.of(text)) == hash(LrMult.of(again))


def test_every_policy_has_a_text_that_is_tested() -> None:
    tested = {policy.name for text in TEXTS for policy in parse_policies(text)}
    assert tested == set(POLICIES)


def test_only_moving_policies_move() -> None:
    moving = {text for text in TEXTS if LrMult.of(text).moves}
    assert moving == {
        "freeze('embedding*', '10%')",
        "unfreeze(each='1 epochs')",
        "freeze('a*') * freeze('b*', 10)",
    }


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("deacy(0.5)", UnknownNameError, r"unknown policy 'deacy': did you mean 'decay'"),
        ("decay", BadValueError, r"decay is called with parentheses: decay\(\)"),
        ("deccay", UnknownNameError, r"unknown policy 'deccay'"),
        ("decay(facto=0.5)", UnknownNameError, r"argument of decay 'facto'.*'factor'"),
        ("decay(0.5, (), 3)", BadValueError, r"decay takes 2 arguments: factor, layers"),
        ("decay(0.5) + no_decay()", BadValueError, "write policies joined by"),
        ("decay(0.5) * 2", BadValueError, "write policies joined by"),
        ("decay(0.5) * decay(0.5)", BadValueError, "has decay twice"),
        ("decay(", BadValueError, "is not a policy"),
        ("__import__('os').getcwd()", BadValueError, "is not a policy"),
        ("decay(open('x'))", BadValueError, r"cannot read \"open\('x'\)\""),
        ("decay(**{})", BadValueError, r"without \*\*"),
        ("decay(-1)", BadValueError, r"decay: factor' is -1.0: give a finite number"),
        ("decay(0)", BadValueError, r"decay: factor=0 is out of bounds: give a number > 0"),
        ("decay(True)", BadTypeError, r"factor=True is not a number"),
        ("decay(layers='a')", BadTypeError, "give name patterns, from input to output"),
        ("decay(layers=['*[forget]'])", BadValueError, "is a slice; a layer is a whole tensor"),
        ("discriminative(0.5)", BadValueError, "give a number >= 1"),
        ("no_decay(3)", BadTypeError, "give True or False"),
        ("freeze('*[forget]')", BadValueError, "a policy applies to whole tensors"),
        ("freeze('*', 'ten')", BadValueError, "ten"),
        ("unfreeze('0%')", BadValueError, r"give a share of the run such as '50%'"),
        ("unfreeze('2 epochs')", BadValueError, "or each= in another unit"),
        ("unfreeze('20%', each=3)", BadValueError, "give only one of the two"),
        ("trust(high=0.5, low=1.0)", BadValueError, r"high=0\.5 is out of bounds"),
        ("mup()", BadValueError, r"give base_width=, or ratios="),
        ("mup(0)", BadValueError, "give at least 1"),
        ("mup(1.5)", BadTypeError, "is not a whole number"),
        ("mup(ratios={'a': 3})", BadTypeError, r"give \(m_in, m_out\)"),
    ],
)
def test_bad_texts(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_policies(text)


def test_scheduled_policies_need_the_step() -> None:
    model = tasks.get("digits-mlp").build()
    optimizer = build("sgd", model, lr=0.1, lr_mult="unfreeze('50%')")
    rates = rates_of(optimizer)
    assert rates is not None
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(BadValueError, match=r"call etude\.layerwise\.rates_of\(optimizer\)\.set"):
        optimizer.step()
    rates.bind(10)
    for step in range(10):
        rates.set(0.1, step)
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)]
        # Half of the run over two layers: 2.5 updates, which is 3, and 5.
        assert moved == [step >= 5] * 2 + [step >= 3] * 2 + [True] * 2
    with pytest.raises(BadValueError, match="follows a schedule"):
        optimizer.step()
