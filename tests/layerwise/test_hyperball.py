"""Hyperball against its formula, around several optimizers; what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from etude import Recipe, tasks, train
from etude.errors import BadValueError
from etude.layerwise import plan
from etude.optimizers import build
from etude.tasks.models import mlp

RATE = 0.05


def net() -> nn.Module:
    torch.manual_seed(0)
    return mlp(inputs=4, outputs=2, width=5, depth=3).double()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(8, 4, generator=g, dtype=torch.float64)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "cautious_adamw"])
def test_it_is_the_formula_around_an_optimizer(name: str) -> None:
    """The base optimizer, stepped on a twin with the same state and weights, gives Δ."""
    ours, twin = net(), net()
    decay = {} if name in ("sgd", "adam") else {"weight_decay": 0.0}
    wrapped = build(name, ours, lr=RATE, lr_mult="hyperball()", **decay)
    base = build(name, twin, lr=RATE, **decay)
    hidden = [n for n, _ in ours.named_parameters() if n.endswith("weight") and "head" not in n]
    norms = {n: p.norm().item() for n, p in ours.named_parameters()}
    for seed in range(4):
        before = {n: p.detach().clone() for n, p in twin.named_parameters()}
        step(ours, wrapped, seed)
        step(twin, base, seed)
        with torch.no_grad():
            for n, p in twin.named_parameters():
                if n in hidden:
                    change = p - before[n]
                    moved = before[n] + RATE * before[n].norm() * change / change.norm()
                    p.copy_(moved * before[n].norm() / moved.norm())
        for n, p in ours.named_parameters():
            torch.testing.assert_close(p, twin.get_parameter(n), rtol=1e-5, atol=1e-8)
            if n in hidden:
                assert p.norm().item() == pytest.approx(norms[n], rel=1e-6)


def test_wrapped_tensors_have_no_decay_and_the_others_keep_theirs() -> None:
    rows = plan("hyperball()", net()).rows
    wrapped = {row.name for row in rows if row.decay == 0}
    assert wrapped == {f"layers.{depth}.linear.weight" for depth in range(3)}
    assert {row.decay for row in rows if row.name not in wrapped} == {1.0}


def test_the_angle_of_an_update_is_the_rate() -> None:
    model = net()
    optimizer = build("muon", model, lr=0.01, lr_mult="hyperball()")
    weight = model.get_parameter("layers.0.linear.weight")
    before = weight.detach().clone()
    step(model, optimizer, 0)
    cosine = torch.nn.functional.cosine_similarity(before.flatten(), weight.flatten(), dim=0)
    assert torch.arccos(cosine).item() == pytest.approx(0.01, rel=0.02)


def test_it_keeps_no_state_and_goes_on_to_the_bit() -> None:
    whole, model = net(), net()
    one = build("adam", whole, lr=RATE, lr_mult="hyperball()")
    first = build("adam", model, lr=RATE, lr_mult="hyperball()")
    for seed in range(4):
        step(whole, one, seed)
    for seed in range(2):
        step(model, first, seed)
    again = net()
    again.load_state_dict(model.state_dict())
    second = build("adam", again, lr=RATE, lr_mult="hyperball()")
    second.load_state_dict(first.state_dict())
    for seed in range(2, 4):
        step(again, second, seed)
    assert all(
        torch.equal(p, q) for p, q in zip(whole.parameters(), again.parameters(), strict=True)
    )


def test_a_run_of_it_learns() -> None:
    task = tasks.get("digits-mlp", width=16)
    recipe = Recipe(optimizer="adam", lr=0.05, lr_mult="hyperball()", steps=60, batch_size=32)
    record = train(task, recipe, evaluations=1)
    assert record.evaluations[-1].loss < 0.8 * record.evaluations[0].loss


def test_what_it_cannot_wrap_is_refused() -> None:
    with pytest.raises(BadValueError, match="schedulefree_adamw evaluates other weights"):
        build("schedulefree_adamw", net(), lr=0.01, lr_mult="hyperball()")
    with pytest.raises(BadValueError, match="prodigy refuses lr_mult"):
        build("prodigy", net(), lr_mult="hyperball()")
    with pytest.raises(BadValueError, match="both set the length of an update"):
        build("adam", net(), lr=0.01, lr_mult="hyperball() * trust()")
    with pytest.raises(BadValueError, match="a fixed norm applies to a whole tensor"):
        plan({"@policy": "hyperball()", "layers.0.*.weight[0:2]": 2.0}, net())
    with pytest.raises(
        BadValueError, match=r"bfloat16 is too coarse for it: keep the weights in float32"
    ):
        build("adam", net().bfloat16(), lr=0.01, lr_mult="hyperball()")
    with pytest.raises(BadValueError, match="scales nothing: the model has no hidden weight"):
        build("adam", nn.Linear(3, 2), lr=0.01, lr_mult="hyperball()")
    model = net()
    nn.init.zeros_(model.get_parameter("layers.1.linear.weight"))
    with pytest.raises(BadValueError, match=r"layers\.1\.linear\.weight, which begins with zeros"):
        build("adam", model, lr=0.01, lr_mult="hyperball()")
