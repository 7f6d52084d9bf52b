"""Batch normalisation by the statistics of the whole batch, of which each process has a share.

torch's SyncBatchNorm has kernels for GPUs alone and is a class of its own, into which a model must
be converted. Here the function is replaced while a share is computed, on every device: modules,
and models that call it themselves, keep their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude.errors import TaskError

Reduce = Callable[[Tensor], None]
"""Replaces a tensor by its sum over the processes."""


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, reduce: Reduce) -> Tensor:
        ctx.reduce = reduce
        total = values.detach().clone().contiguous()
        reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradients[0], ctx.reduce), None  # type: ignore[no-untyped-call]


def summed(values: Tensor, reduce: Reduce) -> Tensor:
    """Return the sum of a tensor over the processes, with its graph.

    The derivative of Σ_r f_r with respect to this process's values is Σ_r ∂f_r/∂s, which is the sum
    of what arrives in each process.
    """
    total: Tensor = _Sum.apply(values, reduce)  # type: ignore[no-untyped-call]
    return total


class SynchronisedNorms(TorchFunctionMode):
    """Gives `torch.nn.functional.batch_norm` the statistics of all processes' shares.

        y = (x - μ) / √(σ² + ε) · γ + β,    μ = Σ_r Σ x / N,    σ² = Σ_r Σ (x - μ)² / N

    with N the number of values of a channel in all shares together. A call in evaluation mode, or
    without a gradient to train, is left as it is.

    Args:
        reduce: Replaces a tensor by its sum over the processes.
        counts: Whether this process's share counts; one without a sample of its own does not.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167; torch's `SyncBatchNorm`.
    """

    def __init__(self, reduce: Reduce, *, counts: bool = True) -> None:
        super().__init__()
        self._reduce, self._counts = reduce, counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, or its replacement."""
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        given = dict(zip(_NAMES, args, strict=False)) | kwargs
        if not given.get("training", False):
            return func(*args, **kwargs)
        return _normalised(self._reduce, self._counts, **given)


class LoneValueNorms(TorchFunctionMode):
    """Gives `batch_norm` of a single value per channel its formula, y = β, where torch raises.

    The share of one process may be a single sample. Where it is computed without the others, to try
    it or to see which parameters it reaches, its mean and variance are those of that sample, and
    no running statistics move.

    Args:
        refusal: What to raise instead, where the share is trained on by itself; empty for nothing.
    """

    def __init__(self, refusal: str = "") -> None:
        super().__init__()
        self._refusal = refusal

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, or its replacement."""
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        given = dict(zip(_NAMES, args, strict=False)) | kwargs
        values = given["input"]
        if not given.get("training", False) or values.numel() > values.shape[1]:
            return func(*args, **kwargs)
        if self._refusal:
            raise TaskError(self._refusal)
        still = {"running_mean": None, "running_var": None}
        return _normalised(_keep, True, **(given | still), least=1)


def _keep(total: Tensor) -> None:
    """Leave a sum as it is: there is one process."""


_NAMES = (
    "input",
    "running_mean",
    "running_var",
    "weight",
    "bias",
    "training",
    "momentum",
    "eps",
)


def _normalised(
    reduce: Reduce,
    counts: bool,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    least: int = 2,
) -> Tensor:
    """Return the normalised input, and move the running statistics."""
    values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    axes = [axis for axis in range(values.ndim) if axis != 1]
    shape = [1, -1] + [1] * (values.ndim - 2)
    own = values if counts else values * 0
    mine = float(values.numel() // values.shape[1]) if counts else 0.0
    first = torch.cat([own.sum(axes), values.new_tensor([mine])])
    totals = summed(first, reduce)
    count = totals[-1].detach()
    if float(count) < least:
        raise TaskError(
            f"batch normalisation needs more than 1 value per channel, and the batch has "
            f"{count:g} over all processes: give a larger batch_size"
        )
    mean = totals[:-1] / count
    centred = values - mean.view(shape)
    squares = (centred if counts else centred * 0).square().sum(axes)
    variance = summed(squares, reduce) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
            running_var.mul_(1 - momentum).add_(unbiased.to(running_var.dtype), alpha=momentum)
    result = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        result = result * weight.view(shape)
    if bias is not None:
        result = result + bias.view(shape)
    return result.to(input.dtype)
