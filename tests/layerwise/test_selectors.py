"""Parts, selectors and the plan: every parameter claimed once, on real models."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etude import tasks
from etude.errors import BadTypeError, BadValueError, TaskError, UnknownNameError
from etude.layerwise import LrMult, parts_of, plan
from etude.layerwise.selectors import Selector
from etude.tasks.models import lstm

NAMES = ["digits-mlp", "digits-cnn", "digits-resnet", "digits-lstm", "digits-gru", "digits-rnn"]
NAMES += ["digits-transformer", "text-transformer", "text-lstm", "digits-autoencoder"]


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {name: tasks.get(name).build() for name in NAMES}


def chosen(model: nn.Module, *rules: str) -> dict[str, set[str]]:
    """Return what each rule claims."""
    rows = plan({rule: 2.0 + i for i, rule in enumerate(rules)}, model).rows
    return {rule: {row.name for row in rows if row.rule == rule} for rule in rules}


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_the_trainable_parameters_in_order(name: str, models: dict) -> None:
    model = models[name]
    parts = parts_of(model)
    assert [p.name for p in parts] == [n for n, _ in model.named_parameters()]
    assert [p.shape for p in parts] == [tuple(p.shape) for p in model.parameters()]
    depths = [p.depth for p in parts]
    assert depths == sorted(depths)
    assert set(depths) == set(range(max(depths) + 1))
    assert parts[-1].name.startswith("head")
    assert sum(p.depth == depths[-1] for p in parts) == 2  # the head's weight and bias alone


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("digits-mlp", 3),
        ("digits-cnn", 4),
        ("digits-resnet", 4),
        ("digits-transformer", 4),
        ("text-lstm", 3),
        ("digits-autoencoder", 6),
    ],
)
def test_depth_counts_layers_and_blocks(name: str, layers: int, models: dict) -> None:
    assert plan({"*": 2.0}, models[name]).depths == layers


def test_a_stacked_lstm_counts_a_layer_for_each_level() -> None:
    parts = parts_of(nn.LSTM(3, 4, 3, bidirectional=True))
    assert {p.depth for p in parts if "_l2" in p.name} == {2}
    assert {p.depth for p in parts if "_l0" in p.name} == {0}


def test_loose_parameters_norms_and_later_embeddings_join_a_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))
            self.embed = nn.Linear(3, 3)
            self.position = nn.Embedding(4, 3)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(2)
            )
            self.norm = nn.LayerNorm(3)
            self.head = nn.Linear(3, 1)

    depth = {p.name: p.depth for p in parts_of(Net())}
    assert depth["token"] == depth["embed.weight"] == depth["position.weight"] == 0
    assert depth["blocks.0.1.weight"] == 1
    assert depth["blocks.1.0.weight"] == depth["norm.bias"] == 2
    assert depth["head.weight"] == 3


def test_kinds_select_whole_layers(models: dict) -> None:
    found = chosen(models["digits-resnet"], "@convolution", "@normalisation", "@linear")
    assert all("conv" in n or n.startswith("stem.0") or "shortcut.0" in n
               for n in found["@convolution"])  # fmt: skip
    assert {"stem.1.weight", "stem.1.bias"} <= found["@normalisation"]
    assert found["@linear"] == {"head.weight", "head.bias"}
    text = chosen(models["text-lstm"], "@embedding", "@recurrent", "@linear")
    assert text["@embedding"] == {"embedding.weight"}
    assert all(".cell." in name for name in text["@recurrent"])


def test_bias_is_what_is_added_wherever_it_is(models: dict) -> None:
    for name in ("digits-lstm", "digits-resnet", "digits-transformer"):
        found = chosen(models[name], "@bias")["@bias"]
        assert found == {n for n, _ in models[name].named_parameters() if "bias" in n}


def test_depth_words_share_the_model_out(models: dict) -> None:
    for model in models.values():
        words = ("@input", "@middle", "@output")
        depths = {p.depth for p in parts_of(model)}
        found = chosen(model, *(words if len(depths) > 2 else ("@input", "@output")))
        assert set().union(*found.values()) == {n for n, _ in model.named_parameters()}
        assert sum(map(len, found.values())) == len(list(model.parameters()))
        assert found["@output"] == {"head.weight", "head.bias"}


def test_patterns_meet_parameters_and_modules(models: dict) -> None:
    model = models["digits-cnn"]
    assert chosen(model, "convs.0")["convs.0"] == {"convs.0.conv.weight", "convs.0.conv.bias"}
    assert len(chosen(model, "conv*")["conv*"]) == 4
    assert chosen(model, "*.bias")["*.bias"] == {n for n, _ in model.named_parameters()
                                                 if n.endswith("bias")}  # fmt: skip
    assert len(chosen(model, "convs.[01].conv.weight")["convs.[01].conv.weight"]) == 2
    assert len(chosen(model, "convs.[0-9]")["convs.[0-9]"]) == 4


def test_tests_joined_by_and_must_all_hold(models: dict) -> None:
    found = chosen(models["digits-cnn"], "@bias & @convolution & convs.1")
    assert found == {"@bias & @convolution & convs.1": {"convs.1.conv.bias"}}


@pytest.mark.parametrize(
    ("cell", "gates"),
    [("LSTM", ("input", "forget", "cell", "output")), ("GRU", ("reset", "update", "new"))],
)
def test_gates_are_torchs_rows_in_every_layer_and_direction(cell: str, gates: tuple) -> None:
    model = getattr(nn, cell)(2, 5, 2, bidirectional=True)
    for index, gate in enumerate(gates):
        rows = [r for r in plan({f"*[{gate}]": 2.0}, model).rows if r.label == f"[{gate}]"]
        assert {r.part.name for r in rows} == {n for n, _ in model.named_parameters()}
        assert {r.spans for r in rows} == {((5 * index, 5 * index + 5),)}


def test_gate_order_is_that_of_torchs_own_equations() -> None:
    # A saturated input gate of 0 keeps the state at 0 however large the candidate is.
    model = nn.LSTM(1, 1)
    span = plan({"bias_ih*[input]": 0.0}, model).rows[2].spans[0]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.bias_ih_l0[2] = 5.0  # the candidate
        assert model(torch.zeros(1, 1))[0].item() > 0.1
        model.bias_ih_l0[span[0] : span[1]] = -50.0
        assert model(torch.zeros(1, 1))[0].item() == pytest.approx(0, abs=1e-6)
    # A GRU's update gate of 1 keeps its state.
    gru = nn.GRU(1, 1)
    first, last = plan({"bias_ih*[update]": 0.0}, gru).rows[2].spans[0]
    with torch.no_grad():
        for p in gru.parameters():
            p.zero_()
        gru.bias_ih_l0[first:last] = 50.0
        state = torch.ones(1, 1)
        assert gru(torch.zeros(1, 1), state)[1].item() == pytest.approx(1)


def test_projections_cells_and_attention_have_parts_by_name() -> None:
    names = chosen(nn.LSTM(2, 4, proj_size=3), "*[projection]", "*[forget]")
    assert names["*[projection]"] == {"weight_hr_l0[projection]"}
    assert "weight_hh_l0[forget]" in names["*[forget]"]
    assert chosen(nn.LSTMCell(2, 4), "*[cell]")["*[cell]"] >= {"weight_ih[cell]", "bias_hh[cell]"}
    assert chosen(nn.GRUCell(2, 4), "*[new]")["*[new]"] >= {"weight_hh[new]"}
    attention = chosen(nn.MultiheadAttention(4, 2), "*[query]")["*[query]"]
    assert attention == {"in_proj_weight[query]", "in_proj_bias[query]"}


def test_several_gates_and_row_ranges() -> None:
    rows = plan({"*[input, output]": 2.0}, nn.LSTM(2, 4)).rows
    assert [r.name for r in rows[:3]] == [
        "weight_ih_l0[input]",
        "weight_ih_l0[output]",
        "weight_ih_l0[rest]",
    ]
    assert rows[2].spans == ((4, 12),)
    rows = plan({"weight[1:3]": 2.0}, nn.Embedding(5, 2)).rows
    assert [(r.name, r.spans, r.count) for r in rows] == [
        ("weight[1:3]", ((1, 3),), 4),
        ("weight[rest]", ((0, 1), (3, 5)), 6),
    ]


def test_the_first_match_wins_row_by_row() -> None:
    model = nn.LSTM(2, 4, 2)
    rules = {"*_l0[forget]": 5.0, "*[forget]": 3.0, "@bias": 2.0, "*": 0.5}
    found = {row.name: row.multiplier for row in plan(rules, model).rows}
    assert found["weight_ih_l0[forget]"] == 5.0
    assert found["weight_ih_l1[forget]"] == 3.0
    assert found["bias_hh_l1[rest]"] == 2.0
    assert found["weight_hh_l1[rest]"] == 0.5


@given(
    picks=st.lists(
        st.sampled_from(
            ["*[forget]", "*[input]", "layers.0*", "@bias", "@recurrent", "head*", "@output",
             "*weight*", "*[cell,output]"]
        ),
        min_size=1, max_size=5, unique=True,
    )
)  # fmt: skip
def test_every_number_is_claimed_exactly_once(picks: list[str]) -> None:
    model = lstm(inputs=2, outputs=3, width=4, depth=2)
    try:
        laid = plan({pick: 1.5 + i for i, pick in enumerate(picks)}, model)
    except BadValueError as error:
        assert "has no effect" in str(error)  # noqa: PT017 - only a shadowed rule may raise here
        return
    assert sum(row.count for row in laid.rows) == sum(p.numel() for p in model.parameters())
    for name, rows in laid.of().items():
        taken = sorted(i for row in rows for first, last in row.spans for i in range(first, last))
        assert taken == list(range(model.get_parameter(name).shape[0]))
        for row in rows:  # the first rule that covers the row's part is the one that claims it
            covering = [p for p in picks if _covers(p, name, row.label)]
            assert row.rule == (covering[0] if covering else "–")


def _covers(pick: str, name: str, label: str) -> bool:
    head = name.startswith("head")
    if "[" in pick:
        return not head and label.strip("[]") in pick.partition("[")[2].strip("]").split(",")
    words = {"@bias": "bias" in name, "@recurrent": not head, "@output": head}
    return words.get(pick, fnmatchcase(name, pick))


def test_tied_parameters_are_one_and_answer_to_both_names() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    found = plan({"b.weight": 0.5}, model)
    assert [(r.part.name, r.multiplier) for r in found.rows][:1] == [("a.weight", 0.5)]
    assert len(found.rows) == 3


def test_frozen_parameters_are_no_parts() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert [p.name for p in parts_of(model)] == ["1.weight", "1.bias"]
    with pytest.raises(BadValueError, match=r"rule '0\*' matches no parameter"):
        plan({"0*": 2.0}, model)


def test_parametrised_layers_keep_their_kind() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    kinds = {p.name: (p.kind, p.bias) for p in parts_of(model)}
    assert kinds["0.parametrizations.weight.original1"] == ("linear", False)
    assert kinds["0.bias"] == ("linear", True)


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("haed", r"rule 'haed' matches no parameter: did you mean 'head'\?"),
        ("layers.0.linaer.weight", r"did you mean 'layers\.0\.linear\.weight'"),
        ("*[forget]", r"layers\.0\.linear, layers\.1\.linear, head \(Linear\) has no gates"),
        ("@convolution", r"matches no parameter: the model has @linear in 3 layers"),
        ("head & @input", r"rule 'head & @input' matches no parameter"),
    ],
)
def test_a_rule_that_matches_nothing_lists_near_misses(
    rule: str, message: str, models: dict
) -> None:
    with pytest.raises(BadValueError, match=message):
        plan({rule: 2.0}, models["digits-mlp"])


def test_a_gate_of_another_layer_names_those_that_are_there(models: dict) -> None:
    with pytest.raises(BadValueError, match=r"other gates: cell, forget, input, output"):
        plan({"*[reset]": 2.0}, models["digits-lstm"])
    with pytest.raises(BadValueError, match=r"head \(Linear\) has no gates; layers with gates: "):
        plan({"head[forget]": 2.0}, models["digits-lstm"])
    with pytest.raises(BadValueError, match=r"\(RNN\) has no gates; no layer here has gates"):
        plan({"@recurrent[forget]": 2.0}, models["digits-rnn"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*[forgot]", r"unknown gate 'forgot': did you mean 'forget'\?"),
        ("@normalization", r"unknown selector '@normalization': did you mean '@normalisation'"),
        ("@liner", r"did you mean '@linear'"),
    ],
)
def test_unknown_words(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        Selector.of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no layer"),
        ("[forget]", "names no layer"),
        ("a & ", "names no layer"),
        ("*[4:4]", r"empty row range: give first < last"),
        ("*[forget,forget]", "names a gate twice"),
    ],
)
def test_malformed_selectors(text: str, message: str) -> None:
    with pytest.raises(BadValueError, match=message):
        Selector.of(text)


def test_a_selector_is_text() -> None:
    with pytest.raises(BadTypeError, match="a selector is text such as"):
        LrMult.of({3: 1.0})


@pytest.mark.parametrize("value", [-1, -0.5, math.nan, math.inf])
def test_a_multiplier_is_finite_and_not_negative(value: float) -> None:
    with pytest.raises(BadValueError, match=r"the multiplier of 'head' is .*finite number >= 0"):
        LrMult.of({"head": value})


@pytest.mark.parametrize("value", [True, None, [1.0]])
def test_a_multiplier_is_a_number_or_a_schedule(value: object) -> None:
    with pytest.raises(BadTypeError, match="give a number >= 0, or a schedule's text"):
        LrMult.of({"head": value})


def test_a_text_that_is_no_schedule() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'warm'.*warmup"):
        LrMult.of({"head": "warm(3)"})


@pytest.mark.parametrize("value", [{}, {"@policy": "decay(0.5) * "}])
def test_empty_and_broken_tables(value: dict) -> None:
    with pytest.raises(BadValueError, match=r"empty table|is not a policy"):
        LrMult.of(value)


def test_neither_table_nor_text() -> None:
    with pytest.raises(BadTypeError, match=r"lr_mult=3: give a table such as"):
        LrMult.of(3)


def test_the_same_selector_twice() -> None:
    with pytest.raises(BadValueError, match=r"names 'head' twice"):
        LrMult.of({"head": 1.0, " head ": 2.0})


def test_a_rule_in_the_shadow_of_another() -> None:
    with pytest.raises(BadValueError, match=r"'head' has no effect: '\*' before it matches all"):
        plan({"*": 1.0, "head": 2.0}, tasks.get("digits-mlp").build())
    with pytest.raises(BadValueError, match=r"'\*\[forget\]' has no effect"):
        plan({"weight*": 1.0, "bias*": 1.0, "*[forget]": 2.0}, nn.LSTM(2, 3))


@pytest.mark.parametrize(
    "rules",
    [
        {"*[0:5]": 2.0, "*[forget]": 3.0},
        {"*[forget]": 3.0, "*[0:5]": 2.0},
        {"weight_ih*[2:6]": 3.0, "*[0:3]": 2.0},
    ],
)
def test_overlapping_slices(rules: dict) -> None:
    with pytest.raises(BadValueError, match=r"overlapping slices of weight_ih_l0: .* equal or dis"):
        plan(rules, nn.LSTM(2, 4))


def test_rows_beyond_the_tensor() -> None:
    with pytest.raises(BadValueError, match=r"reaches row 9 of weight, which has 5"):
        plan({"weight[0:9]": 2.0}, nn.Embedding(5, 2))


def test_a_slice_of_a_tied_tensor() -> None:
    model = nn.ModuleDict({"a": nn.LSTM(3, 3), "b": nn.LSTM(3, 3)})
    model["b"].weight_hh_l0 = model["a"].weight_hh_l0
    with pytest.raises(BadValueError, match=r"a\.weight_hh_l0, which the model ties to b\.weight"):
        plan({"*[forget]": 2.0}, model)


def test_lazy_parameters_and_models_without_any() -> None:
    with pytest.raises(TaskError, match=r"has no shape yet .*run the model once"):
        plan({"*": 2.0}, nn.LazyLinear(3))
    with pytest.raises(BadValueError, match="no trainable parameter"):
        plan({"*": 2.0}, nn.ReLU())
