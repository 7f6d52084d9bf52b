"""Backward passes are told of however they are called, and torch gets its functions back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from etude.diagnosis.watching.backward_passes import listen_to_backward


class Heard:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def before_backward(self, tensors: Any) -> None:
        self.calls.append(("before", tensors))

    def after_backward(self, tensors: Any) -> None:
        self.calls.append(("after", tensors))

    def backward_failed(self):
        self.calls.append(("failed", None))

    def scaled(self, given: Any, result: Any) -> None:
        self.calls.append(("scaled", (given, result)))


def test_a_backward_pass_is_heard_however_it_is_called_and_torch_gets_its_function_back():
    plain = torch.autograd.backward, torch.amp.GradScaler.scale
    x = torch.ones(2, requires_grad=True)
    heard, other = Heard(), Heard()
    removals = [listen_to_backward(heard), listen_to_backward(other)]
    first, second = (x * 2).sum(), (x * 3).sum()
    first.backward()
    torch.autograd.backward([second])
    assert x.grad is not None
    assert x.grad.tolist() == [5.0, 5.0]
    given = (x * 1).sum()
    result = torch.amp.GradScaler("cpu", init_scale=4.0).scale(given)
    assert result == 4 * given
    removals[0]()
    removals[0]()
    assert torch.autograd.backward is not plain[0]
    (x * 2).sum().backward()
    removals[1]()
    assert (torch.autograd.backward, torch.amp.GradScaler.scale) == plain
    names = ["before", "after", "before", "after", "scaled"]
    assert [name for name, _ in heard.calls] == names
    assert heard.calls[0][1] is first
    assert heard.calls[3][1] == [second]
    assert heard.calls[4][1][0] is given
    assert heard.calls[4][1][1] is result
    assert len(other.calls) == len(names) + 2


def test_a_failed_backward_pass_has_no_end():
    heard = Heard()
    remove = listen_to_backward(heard)
    try:
        with pytest.raises(RuntimeError, match="does not require grad"):
            torch.zeros(1).backward()
    finally:
        remove()
    assert [name for name, _ in heard.calls] == ["before", "failed"]


def test_a_function_that_someone_else_put_around_ours_stays():
    plain = torch.autograd.backward
    remove = listen_to_backward(Heard())
    ours = torch.autograd.backward

    def theirs(*args, **options):
        return ours(*args, **options)

    torch.autograd.backward = theirs
    remove()
    assert torch.autograd.backward is theirs
    x = torch.ones(1, requires_grad=True)
    x.sum().backward()
    assert x.grad == 1
    torch.autograd.backward = ours  # they take theirs away, and the next one of ours ends both
    listen_to_backward(Heard())()
    assert torch.autograd.backward is plain
