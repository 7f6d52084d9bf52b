"""What an optimizer that evaluates the loss itself says of a closure that does not suit it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from etude.errors import TaskError
from etude.optimizers import ROWS, build


@pytest.mark.parametrize("name", [row.name for row in ROWS.values() if row.closure == "graph"])
def test_a_closure_that_has_used_up_its_graph_is_explained(name):
    model, x = nn.Linear(3, 1), torch.randn(8, 3)
    optimizer = build(name, model, lr=1.0)

    def closure():
        loss = mse_loss(model(x), x[:, :1])
        loss.backward()
        return loss

    with pytest.raises(TaskError, match="without calling backward"):
        optimizer.step(closure)


def test_the_rate_left_out_is_the_librarys_own():
    model = nn.Linear(3, 1)
    assert (
        build("adamw", model).param_groups[0]["lr"]
        == torch.optim.AdamW([*model.parameters()]).defaults["lr"]
    )
