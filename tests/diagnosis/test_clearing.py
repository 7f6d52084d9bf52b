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
        assert clearing.after_backward(sampled=True), update
        clearing.stepped()
        weight.grad = None
    clearing.before_backward(sampled=True)
    assert clearing.uncleared() == 0.0


def test_a_pass_that_does_not_reach_the_gradient_is_none_of_its_own():
    weight = torch.nn.Parameter(torch.ones(3))
    clearing = Clearing([weight])
    weight.sum().backward()
    assert clearing.after_backward(sampled=True)
    clearing.stepped()
    clearing.before_backward(sampled=True)
    assert not clearing.after_backward(sampled=True)
    clearing.before_backward(sampled=True)
    weight.sum().backward()
    assert clearing.after_backward(sampled=True)
    assert bool(clearing.uncleared())


def cleared_early(*, sampled):
    """Return what is said of a gradient that is zeroed through `.data` before a step."""
    weight = torch.nn.Parameter(torch.ones(3))
    clearing = Clearing([weight])
    clearing.before_backward(sampled=sampled)
    weight.sum().backward()
    clearing.after_backward(sampled=sampled)
    before = float(clearing.cleared_early())
    weight.grad.data.zero_()
    return before, float(clearing.cleared_early())


def test_a_gradient_zeroed_through_data_is_seen_by_its_values_where_they_are_read():
    assert cleared_early(sampled=True) == (0.0, 1.0)
    assert cleared_early(sampled=False) == (0.0, 0.0)


def test_a_gradient_that_the_pass_left_at_zero_is_not_called_cleared():
    weight = torch.nn.Parameter(torch.ones(3))
    clearing = Clearing([weight])
    clearing.before_backward(sampled=True)
    (0.0 * weight).sum().backward()
    assert clearing.after_backward(sampled=True)
    assert float(clearing.cleared_early()) == 0.0


def test_gradients_on_two_devices_are_read_together():
    weights = [
        torch.nn.Parameter(torch.ones(size, device=d)) for size, d in ((3, "meta"), (4, None))
    ]
    clearing = Clearing(weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    assert clearing.after_backward(sampled=True)
    assert torch.as_tensor(clearing.cleared_early()).is_meta
    clearing.stepped()
    clearing.before_backward(sampled=True)
    assert torch.as_tensor(clearing.uncleared()).is_meta
