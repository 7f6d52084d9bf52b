"""Adam-mini: parity with pytorch_optimizer's, and which entries of a model share a moment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etude import tasks
from etude.errors import BadValueError
from etude.layerwise.blocks import Blocks, blocks_of
from etude.optimizers import build
from etude.optimizers.classes.adam_mini import AdamMini


class SmallAttention(nn.Module):
    """Attention of four heads over eight numbers, with a layer before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q_proj, self.k_proj = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.v_proj, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        q, k, v = (
            part(x).unflatten(-1, (4, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        made = nn.functional.scaled_dot_product_attention(q, k, v)
        return made.transpose(1, 2).flatten(-2)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_its_blocks_it_is_pytorch_optimizers(decay: float) -> None:
    peers = pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    one, two = SmallAttention(), SmallAttention()
    two.load_state_dict(one.state_dict())
    theirs = peers.AdamMini(two, lr=0.01, weight_decay=decay, num_embeds=8, num_heads=4)
    # There a tensor outside of queries and keys is one block, and a normalisation has no decay.
    heads = [one.q_proj.weight, one.k_proj.weight]
    rest = list(one.v_proj.parameters())
    mine = AdamMini(
        [
            {"params": heads, "blocks": 4, "weight_decay": decay},
            {"params": rest, "blocks": 1, "weight_decay": decay},
            {"params": list(one.norm.parameters()), "blocks": 1},
        ],
        lr=0.01,
    )
    for _ in range(20):
        x = torch.randn(3, 5, 8)
        for model, optimizer in ((one, mine), (two, theirs)):
            optimizer.zero_grad()
            (model(x) - x.roll(1, 1)).square().mean().backward()
            optimizer.step()
    for own, other in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 2**31), st.sampled_from([(4, 3), (4, 2, 3), (6,)]))
def test_blocks_of_one_entry_are_adam(seed: int, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(seed)
    flat = nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64).flatten())
    twin = nn.Parameter(flat.detach().clone())
    one = AdamMini([flat], lr=0.1)
    two = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.0)
    for _ in range(5):
        flat.grad = torch.randn(flat.shape, generator=g, dtype=torch.float64)
        twin.grad = flat.grad.clone()
        one.step()
        two.step()
    torch.testing.assert_close(flat, twin)


@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 6]))
def test_another_axis_is_the_transposed_matrix(seed: int, blocks: int) -> None:
    g = torch.Generator().manual_seed(seed)
    wide = nn.Parameter(torch.randn(4, 6, generator=g, dtype=torch.float64))
    tall = nn.Parameter(wide.detach().T.clone())
    one = AdamMini([{"params": [wide], "axis": 1, "blocks": blocks}], lr=0.1)
    two = AdamMini([{"params": [tall], "blocks": blocks}], lr=0.1)
    for _ in range(4):
        wide.grad = torch.randn(4, 6, generator=g, dtype=torch.float64)
        tall.grad = wide.grad.T.clone()
        one.step()
        two.step()
    torch.testing.assert_close(wide.detach().T, tall.detach())
    assert one.state[wide]["exp_avg_sq"].shape == (blocks,)


def test_heads_are_read_from_the_bundled_transformer() -> None:
    model = tasks.get("digits-transformer").build()
    found = blocks_of(model)
    heads = next(m.heads for m in model.modules() if hasattr(m, "heads"))
    counts = {name: one.number for name, one in found.items() if name.endswith("weight")}
    told = {name for name, count in counts.items() if count == heads}
    asked = {n for n in counts if n.endswith(("query.weight", "key.weight"))}
    assert told == asked
    assert asked
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    assert {n for n, count in counts.items() if count == 1} == {f"{n}.weight" for n in norms}
    optimizer = build("adam_mini", model)
    # As many moments of second order as there are blocks, far fewer than entries.
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        way = found[name]
        assert len(optimizer.state[parameter]["exp_avg_sq"]) == (
            way.number or parameter.shape[way.axis]
        )


class Grouped(nn.Module):
    """Attention of eight numbers in a head, with four heads for queries and two for keys."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(16, 32), nn.Linear(16, 16)
        self.qkv = nn.Linear(16, 64)
        for name, value in attributes.items():
            setattr(self, name, value)


def test_heads_of_other_attention() -> None:
    def counts(model: nn.Module) -> list[int | None]:
        return [one.number for name, one in blocks_of(model).items() if name.endswith("t")]

    assert counts(Grouped(head_dim=8)) == [4, 2, None]
    assert counts(Grouped(config=SimpleNamespace(head_dim=8, num_attention_heads=4))) == [
        4,
        2,
        None,
    ]
    assert counts(Grouped(num_heads=4)) == [4, 4, None]
    assert counts(Grouped()) == [None, None, None]
    assert counts(Grouped(num_heads=5)) == [None, None, None]
    apart = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
    assert blocks_of(apart)["q_proj_weight"] == Blocks(0, 2)
    assert blocks_of(apart)["v_proj_weight"] == Blocks(0, None)


def test_gpt2_keeps_its_outputs_in_columns() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_positions=4, n_embd=8, n_layer=1, n_head=2, vocab_size=5)
    found = blocks_of(transformers.GPT2LMHeadModel(config))
    layer = "transformer.h.0"
    assert found[f"{layer}.attn.c_attn.weight"] == Blocks(1, 6)
    assert found[f"{layer}.mlp.c_fc.weight"] == Blocks(1, None)
    assert found["transformer.wte.weight"] == Blocks(0, None)
    assert found[f"{layer}.ln_1.weight"] == Blocks(0, 1)
    assert found[f"{layer}.ln_1.bias"] == Blocks(0, None)


def test_positions_that_are_loose_have_a_moment_each() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model.register_parameter("positions", nn.Parameter(torch.zeros(1, 5, 3)))
    assert blocks_of(model)["positions"] == Blocks(1, None)


def test_groups_of_the_users_own_keep_their_blocks() -> None:
    model = nn.Linear(4, 6)
    groups = [{"params": [model.weight], "blocks": 3}, {"params": [model.bias]}]
    optimizer = build("adam_mini", model, groups=groups)
    assert [group["blocks"] for group in optimizer.param_groups] == [3, None]


def test_blocks_that_do_not_divide_the_axis_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(6, 4))
    optimizer = AdamMini([{"params": [weight], "blocks": 4}])
    weight.grad = torch.ones_like(weight)
    with pytest.raises(BadValueError, match=r"blocks=4 .*\(6, 4\) cannot .*give a divisor of 6"):
        optimizer.step()
