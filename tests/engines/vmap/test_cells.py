"""Recurrent cells as operations that stack: they compute what torch's own do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from etude.engines.vmap.recurrent import unroll


class TestCells:
    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    @pytest.mark.parametrize(
        "options",
        [{}, {"batch_first": True}, {"bidirectional": True, "num_layers": 2}, {"bias": False}],
        ids=str,
    )
    def test_they_compute_what_torch_computes(self, kind: Any, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        net = kind(3, 5, **options)
        x = torch.randn(4, 2, 3)
        before, state = net(x)
        start = (
            tuple(torch.randn_like(s) for s in state)
            if kind is nn.LSTM
            else torch.randn_like(state)
        )
        before_from, _ = net(x, start)
        unroll(net)
        after, ends = net(x)
        torch.testing.assert_close(after, before)
        torch.testing.assert_close(ends, state)
        torch.testing.assert_close(net(x, start)[0], before_from)

    def test_projections_and_single_sequences(self) -> None:
        torch.manual_seed(0)
        net = nn.LSTM(3, 5, proj_size=2)
        x = torch.randn(4, 3)
        before = net(x)
        unroll(net)
        torch.testing.assert_close(net(x), before)
