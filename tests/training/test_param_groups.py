"""Gradients are dropped as torch drops them, and by an optimizer's own way if it has one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from etude.training.gradient.param_groups import drop_gradients


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=3))
def test_no_parameter_of_any_group_keeps_a_gradient(has_gradient: list[list[bool]]) -> None:
    groups = [[nn.Parameter(torch.ones(2)) for _ in group] for group in has_gradient]
    for group, flags in zip(groups, has_gradient, strict=True):
        for parameter, has in zip(group, flags, strict=True):
            parameter.grad = torch.ones(2) if has else None
    drop_gradients(torch.optim.SGD([{"params": group} for group in groups], lr=0.1))
    assert all(parameter.grad is None for group in groups for parameter in group)


def test_a_parameter_without_the_optimizer_keeps_its_gradient() -> None:
    own, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    own.grad, other.grad = torch.ones(2), torch.ones(2)
    drop_gradients(torch.optim.SGD([own], lr=0.1))
    assert own.grad is None
    assert other.grad is not None


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimizer_with_a_way_of_its_own_is_left_to_it(
    base: type[torch.optim.Optimizer],
) -> None:
    asked = []

    class Own(base):  # type: ignore[misc, valid-type]
        def zero_grad(self, set_to_none: bool = True) -> None:
            asked.append(set_to_none)
            super().zero_grad(set_to_none)

    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    drop_gradients(Own([parameter], lr=0.1))
    assert asked == [True]
    assert parameter.grad is None
