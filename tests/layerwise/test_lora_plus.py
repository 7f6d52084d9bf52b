"""LoRA+: B learns faster than A, as peft's own optimizer has it; where adapters are found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from etude import Recipe
from etude.errors import BadTypeError, BadValueError
from etude.layerwise import parse_policies, plan
from etude.optimizers import build
from etude.optimizers.adapters import adapters, middle, mostly
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.prior import centre_of, log10_centre


def adapted(rank: int = 4, alpha: int = 16, **options: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0", "2"], **options)
    model: nn.Module = peft.get_peft_model(net, config)
    return model


def gradients(model: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 6, generator=g)
    model.zero_grad()
    (model(x) - torch.randn(16, 3, generator=g)).square().mean().backward()


@pytest.mark.parametrize("ratio", [1.0, 4.0, 16.0])
def test_it_trains_as_pefts_own_optimizer_does(ratio: float) -> None:
    optimizers = pytest.importorskip("peft.optimizers")
    ours, theirs = adapted(), adapted()
    mine = build("adamw", ours, lr=0.01, lr_mult=f"lora_plus({ratio})", weight_decay=0.0)
    peer = optimizers.create_loraplus_optimizer(
        theirs, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=ratio
    )
    for seed in range(5):
        for model, optimizer in ((ours, mine), (theirs, peer)):
            gradients(model, seed)
            optimizer.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_only_the_second_matrices_are_faster() -> None:
    rows = plan("lora_plus(8)", adapted()).rows
    assert {row.multiplier for row in rows if "lora_B" in row.name} == {8.0}
    assert {row.multiplier for row in rows if "lora_B" not in row.name} == {1.0}
    assert parse_policies("lora_plus(16)")[0] == parse_policies("lora_plus()")[0]
    assert Recipe(lr_mult="lora_plus(8)").lr_mult == Recipe(lr_mult="lora_plus(ratio=8)").lr_mult


def test_adapters_with_other_names_are_selected() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.up(self.down(x))

    rows = {row.name: row.multiplier for row in plan("lora_plus(4, second='up*')", Own()).rows}
    assert rows == {"down.weight": 1.0, "up.weight": 4.0}
    with pytest.raises(BadValueError, match=r"no trained parameter is named lora_B.*second="):
        plan("lora_plus()", Own())
    with pytest.raises(BadValueError, match=r"matches no parameter: did you mean"):
        plan("lora_plus(second='ups*')", Own())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(BadValueError, match=r"lora_plus: ratio=0\.5 is out of bounds"):
        parse_policies("lora_plus(0.5)")
    with pytest.raises(BadTypeError, match="give a selector"):
        parse_policies("lora_plus(second=3)")
    with pytest.raises(BadValueError, match="selects rows of a tensor"):
        parse_policies("lora_plus(second='up[0:2]')")


@pytest.mark.parametrize(("rank", "alpha", "stabilised"), [(4, 16, False), (2, 8, True)])
def test_rank_and_scaling_are_read_from_the_model(rank: int, alpha: int, stabilised: bool) -> None:
    model = adapted(rank, alpha, use_rslora=stabilised)
    found = adapters(model)
    assert [one.inputs for one in found] == [6, 8]
    assert {one.rank for one in found} == {rank}
    scaling = alpha / rank**0.5 if stabilised else alpha / rank
    assert [one.scaling for one in found] == pytest.approx([scaling] * 2)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(one.scalars for one in found) == trained
    assert middle(found) == (rank, pytest.approx(scaling * rank), 7)


def test_the_prior_of_adapters_is_used_where_most_of_what_is_trained_is_theirs() -> None:
    adamw = OptimizerChoice("adamw")
    model = adapted(rank=1)
    assert mostly(model) == adapters(model)
    usual = log10_centre(adamw, sum(o.scalars for o in adapters(model)), 100)
    assert centre_of(model, 100, adamw) != usual
    sgd = OptimizerChoice("sgd")
    assert centre_of(model, 100, sgd) == log10_centre(sgd, 25, 100)
    whole = copy.deepcopy(model)
    for p in whole.parameters():
        p.requires_grad_(True)
    count = sum(p.numel() for p in whole.parameters())
    assert not mostly(whole)
    assert centre_of(whole, 100, adamw) == log10_centre(adamw, count, 100)


def test_lions_prior_is_as_far_below_adamws_as_without_adapters() -> None:
    model = adapted()
    apart = [centre_of(model, 100, OptimizerChoice(name)) for name in ("adamw", "lion")]
    plain = [log10_centre(OptimizerChoice(name), 1, None) for name in ("adamw", "lion")]
    assert apart[0] - apart[1] == pytest.approx(plain[0] - plain[1])
