"""Second derivatives of a loss by Hessian-vector products, without the full matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from etude.errors import TaskError
from etude.torch_internals import foreach

PRICE = 2
"""Gradient evaluations that one product with the Hessian costs (Pearlmutter 1994)."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Use kernels with a second derivative, which fused attention and cuDNN's cells lack."""
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield


class Hessian:
    """The Hessian of a loss, as a linear operator on vectors.

    Args:
        loss: A scalar with its graph, computed within `twice_differentiable()`.
        parameters: The parameters to differentiate by; a vector is their concatenation.

    Raises:
        TaskError: If an operation of the model has no second derivative.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian = Hessian((w**3).sum(), [w])
    >>> hessian.gradient.tolist(), hessian.times(torch.tensor([1.0, 1.0])).tolist()
    ([3.0, 12.0], [6.0, 12.0])
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.size = sum(p.numel() for p in self.parameters)
        self.products = 0
        try:
            gradients = torch.autograd.grad(
                loss, self.parameters, create_graph=True, materialize_grads=True
            )
        except RuntimeError as error:
            raise TaskError(
                "the closure's loss has no graph left to differentiate twice: let the closure "
                "return loss_function(model(inputs), targets) without calling backward()"
            ) from error
        self._gradient = flat(gradients)
        self.gradient = self._gradient.detach()

    def times(self, vector: Tensor) -> Tensor:
        """Return the product of the Hessian with a vector of `size` numbers."""
        self.products += 1
        if not self._gradient.requires_grad:  # a loss that is linear in every parameter
            return torch.zeros_like(vector)
        try:
            parts = torch.autograd.grad(
                self._gradient,
                self.parameters,
                vector,
                retain_graph=True,
                materialize_grads=True,
            )
        except RuntimeError as error:
            raise TaskError(
                f"the model has no second derivative: {error}; use a first-order optimizer"
            ) from error
        return flat(parts).detach()

    def matrix(self) -> Tensor:
        """Return the full matrix (size, size), from `size` products, symmetrised."""
        unit = torch.zeros_like(self.gradient)
        rows = []
        for index in range(self.size):
            unit[index] = 1
            rows.append(self.times(unit))
            unit[index] = 0
        matrix = torch.stack(rows)
        return (matrix + matrix.T) / 2


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return the concatenation of flattened tensors."""
    return torch.cat([t.reshape(-1) for t in tensors])


@torch.no_grad()
def move(parameters: Sequence[Tensor], direction: Tensor, length: float) -> None:
    """Add `length` times a flat vector to the parameters in place."""
    parts = torch.split(direction, [p.numel() for p in parameters])
    shaped = [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
    foreach.add_(list(parameters), shaped, alpha=length)


@torch.no_grad()
def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values into the parameters in place."""
    foreach.copy_(list(parameters), list(values))
