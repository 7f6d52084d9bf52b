"""Whether gradients were cleared, and whether a backward pass has reached them."""

from __future__ import annotations

import torch

from etude.diagnosis.watching.clearing import Clearing


def test_a_pass_is_seen_where_the_new_gradient_takes_the_memory_of_the_cleared_one():
    weight, memory = torch.nn.Parameter(torch.ones(3)), torch.zeros(3)
    clearing = Clearing([weight])
    for update in range(3):
        clearing.before_backward(sampled=True)
        weight.grad = memory[:]  # the same place, and the same version
        assert clearing.after_backward(), update
        clearing.stepped()
        weight.grad = None
    clearing.before_backward(sampled=True)
    assert clearing.uncleared() == 0.0


def test_a_pass_that_does_not_reach_the_gradient_is_none_of_its_own():
    weight = torch.nn.Parameter(torch.ones(3))
    clearing = Clearing([weight])
    weight.sum().backward()
    assert clearing.after_backward()
    clearing.stepped()
    clearing.before_backward(sampled=True)
    assert not clearing.after_backward()
    clearing.before_backward(sampled=True)
    weight.sum().backward()
    assert clearing.after_backward()
    assert bool(clearing.uncleared())
