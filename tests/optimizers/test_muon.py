"""Muon: parity with torch's, kernels as matrices, and which tensors are taken for matrices."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from etude import Recipe
from etude.errors import BadTypeError, BadValueError, UnknownNameError
from etude.layerwise.matrices import matrices
from etude.optimizers import build
from etude.optimizers.classes.muon import MuonAdamW, orthogonal
from tests.optimizers import reference


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(),
        nn.Linear(24, 10),
    )  # fmt: skip


class Words(nn.Module):
    """Tables, positions, a body and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.pos_embed = nn.Embedding(9, 4), nn.Parameter(torch.zeros(1, 3, 4))
        self.body = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 9)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 7), columns=st.integers(1, 7), nesterov=st.booleans(),
    steps=st.integers(1, 6), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_matrix_has_the_bits_of_torchs_muon(
    rows: int, columns: int, nesterov: bool, steps: int, seed: int
) -> None:
    torch.manual_seed(seed)
    own, other = (nn.Parameter(torch.ones(rows, columns)) for _ in range(2))
    one = MuonAdamW([own], lr=0.02, nesterov=nesterov, ns_steps=steps)
    two = torch.optim.Muon(
        [other], lr=0.02, nesterov=nesterov, ns_steps=steps, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        own.grad = torch.randn(rows, columns)
        other.grad = own.grad.clone()
        one.step()
        two.step()
    assert torch.equal(own, other)


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (3, 8, 5), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_kernel_is_the_matrix_of_its_outputs(shape: tuple[int, ...], layout: object) -> None:
    if layout is torch.channels_last and len(shape) != 4:
        return
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(shape).to(memory_format=layout))  # type: ignore[call-overload]
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    one, two = MuonAdamW([kernel], lr=0.02), MuonAdamW([flat], lr=0.02)
    for _ in range(4):
        kernel.grad = torch.randn(shape).to(memory_format=layout)  # type: ignore[call-overload]
        flat.grad = kernel.grad.flatten(1).clone()
        one.step()
        two.step()
    torch.testing.assert_close(kernel.detach().flatten(1), flat.detach(), rtol=1e-5, atol=1e-6)
    assert kernel.is_contiguous(memory_format=layout)  # type: ignore[arg-type]


def test_a_kernel_follows_the_readable_reference() -> None:
    draw = np.random.default_rng(0)
    start = draw.normal(size=(4, 2, 3, 3))
    gradients = [draw.normal(size=start.shape) for _ in range(5)]
    kernel = nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build("muon", [kernel], lr=0.1)
    for gradient in gradients:
        kernel.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    *_, want = reference.walk(reference.muon, start, gradients, lr=0.1)
    change = np.abs(want - start).max()
    np.testing.assert_allclose(kernel.detach().numpy(), want, rtol=0, atol=0.06 * change)


@given(seed=st.integers(0, 99), rows=st.integers(2, 9), columns=st.integers(2, 9))
@settings(max_examples=15, deadline=None)
def test_singular_values_come_near_one(seed: int, rows: int, columns: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(rows, rows, generator=draw))
    right, _ = torch.linalg.qr(torch.randn(columns, columns, generator=draw))
    count = min(rows, columns)
    values = torch.linspace(1.0, 0.2, count)
    made = orthogonal(left[:, :count] * values @ right[:, :count].T, 5).float()
    found = torch.linalg.svdvals(made)
    assert (found > 0.6).all()
    assert (found < 1.3).all()


def of(model: nn.Module, **more: object) -> set[str]:
    optimizer = build("muon", model, lr=0.1, **more)
    taken = {id(p) for g in optimizer.param_groups if g["matrix"] for p in g["params"]}
    return {name for name, p in model.named_parameters() if id(p) in taken and p.ndim > 1}


def test_kernels_and_hidden_matrices_are_taken_and_ends_are_not() -> None:
    assert of(cnn()) == {"0.weight", "3.weight"}
    assert of(Words()) == {"body.0.weight", "body.1.weight"}
    mlp = nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    assert of(mlp) == {"0.weight", "1.weight"}


def test_a_recipe_says_which() -> None:
    assert of(cnn(), matrix=["@convolution", "5.*"]) == {"0.weight", "3.weight", "5.weight"}
    assert of(cnn(), matrix={"exclude": ["0.*"]}) == {"3.weight"}
    assert of(cnn(), matrix=["*", "!@output"]) == {"0.weight", "3.weight"}
    assert of(cnn(), matrix="hidden") == of(cnn())


@pytest.mark.parametrize("matrix", ["hidden", ["conv*", "!conv1*"], {"exclude": ["0.*"]}])
def test_the_choice_survives_files_and_counts_in_the_digest(matrix: object) -> None:
    recipe = Recipe(optimizer={"name": "muon", "matrix": matrix})
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["optimizer"]["name"] == "muon"
    other = Recipe(optimizer={"name": "muon", "matrix": ["other"]})
    assert recipe.digest != other.digest
    assert hash(recipe.optimizer) != hash(other.optimizer)


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (False, BadTypeError, 'does not select tensors: give "hidden", a list'),
        ([], BadValueError, "names no tensor"),
        ({"exclude": []}, BadValueError, "names no tensor"),
        ({"only": ["a"]}, BadTypeError, "does not select tensors"),
        (["*[forget]"], BadValueError, "selects rows of a tensor"),
        (["@kernel"], UnknownNameError, "unknown selector '@kernel'"),
    ],
)
def test_what_says_nothing_is_refused(matrix: object, error: type[Exception], message: str) -> None:
    with pytest.raises((error, BadValueError), match=message):
        Recipe(optimizer={"name": "muon", "matrix": matrix})


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(BadValueError, match="matrix='convs' matches no parameter"):
        build("muon", cnn(), matrix=["convs"])
    with pytest.raises(BadValueError, match="matches no tensor of two or more axes"):
        build("muon", cnn(), matrix=["@normalisation"])
    with pytest.raises(BadValueError, match="matches no parameter"):
        build("muon", cnn(), matrix={"exclude": ["convs"]})
    with pytest.raises(BadTypeError, match="give the model, or parameter groups"):
        build("muon", cnn().parameters(), matrix=["0.*"])


def test_it_says_where_nothing_is_left_and_where_it_guesses() -> None:
    with pytest.warns(UserWarning, match="finds no hidden matrix or kernel"):
        build("muon", nn.Linear(3, 3))
    loose = nn.ModuleDict({"one": nn.Linear(3, 4), "other": nn.Linear(4, 2)})
    with pytest.warns(UserWarning, match=r"assumes that other\.weight is the head"):
        build("muon", loose)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert matrices(loose, ["one"]) == {"one.weight"}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_torch_muon_is_torchs_own_with_adamw_for_the_rest() -> None:
    ours, theirs = cnn(), cnn()
    for model in (ours, theirs):
        model.insert(5, nn.Linear(24, 24))
    theirs.load_state_dict(ours.state_dict())
    mine = build("torch_muon", ours, lr=0.02, weight_decay=0.3)
    hidden = [theirs[5].weight]
    rest = [p for p in theirs.parameters() if p is not hidden[0]]
    two = [
        torch.optim.Muon(hidden, lr=0.02, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=0.02, weight_decay=0.3),
    ]
    for seed in range(4):
        for model, optimizers in ((ours, [mine]), (theirs, two)):
            x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
            model.zero_grad()
            model(x).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name
