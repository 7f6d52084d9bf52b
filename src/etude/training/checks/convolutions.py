"""Warns of a convolution whose backward pass corrupts memory on a processor without AVX-512.

For the gradient of the weights of a strided 1×1 convolution, oneDNN copies the pixels that the
stride selects into a buffer, in whole vectors of eight channels. With fewer channels, in
channels-last layout, its code for AVX2 writes beyond the end of the buffer. The process then
crashes, at once or later, because the heap is corrupted. The conditions in `overruns` were found by
testing shapes, each in a separate process.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from etude.torch_internals import is_compiled
from etude.training.machine.processor import convolves_with_avx2

VECTOR = 8
"""The number of single-precision values in an AVX2 register."""

SMALLEST = 20_480
"""For one sample, the number of input values up to which torch does not use oneDNN."""


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value)
    return (both[0], both[-1])


def channels_last(tensor: Tensor) -> bool:
    """Return whether torch treats an image tensor (N, C, H, W) as channels-last.

    Only the strides matter, so a slice of such a tensor is channels-last too.

    >>> x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    >>> channels_last(x), channels_last(x[:, :2]), channels_last(x.contiguous())
    (True, True, False)
    """
    least = 1
    for axis in (1, 3, 2, 0):
        if tensor.stride(axis) < least:
            return False
        least = tensor.stride(axis) * max(1, tensor.shape[axis])
    return True


def overruns(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    groups: int = 1,
) -> bool:
    """Return whether the gradient of a convolution's weights writes beyond its memory with AVX2.

    All of these conditions must be true: single precision on the CPU; a 1×1 kernel; 2 to 7 input
    channels in one group; a stride that divides the image's sides; no padding; input or weight in
    channels-last layout; and several samples, or a large one.

    Args:
        x: The input (N, C, H, W).
        weight: The weight (outputs, C / groups, kernel, kernel).
        stride: The number of pixels between two outputs.
        padding: The number of zeros around the image, or 'valid' for none.
        groups: The number of groups of channels.

    >>> x = torch.zeros(4, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    >>> weight = torch.zeros(8, 4, 1, 1)
    >>> overruns(x, weight, 2), overruns(x.contiguous(), weight, 2), overruns(x, weight, 1)
    (True, False, False)
    """
    if x.ndim != 4 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    steps = _pair(stride)
    padded = padding != "valid" and (isinstance(padding, str) or _pair(padding) != (0, 0))
    return (
        tuple(weight.shape[2:]) == (1, 1)
        and groups == 1
        and 2 <= x.shape[1] < VECTOR
        and max(steps) > 1
        and all(side % step == 0 for side, step in zip(x.shape[2:], steps, strict=True))
        and not padded
        and (len(x) > 1 or x.numel() > SMALLEST)
        and (channels_last(x) or channels_last(weight))
    )


class _Watch(TorchFunctionMode):
    """Checks every convolution, and warns before the backward pass of one that overruns."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.warned: set[int] = set()

    def __torch_function__(
        self, function: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.conv2d:
            self._check(*args, **kwargs)
        return function(*args, **kwargs)

    def _check(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        # The same computation yields the gradient of the bias.
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        if not (torch.is_grad_enabled() and trained):
            return
        if torch.is_autocast_enabled("cpu") or id(weight) in self.warned:
            return
        if not overruns(input, weight, stride, padding, groups):
            return
        self.warned.add(id(weight))
        name = self.names.get(id(weight))
        layer = f"layer {name!r}" if name else "a convolution in the model's forward()"
        last = "its input is" if channels_last(input) else "its weight is"
        warnings.warn(
            f"{layer}, a 1×1 convolution with stride {'×'.join(map(str, _pair(stride)))} of "
            f"{input.shape[1]} channels: {last} in channels-last layout, and on a processor "
            "without AVX-512 oneDNN's backward pass of such a convolution writes beyond its "
            "memory and can kill the process; give it contiguous tensors (x.contiguous(), no "
            "memory_format=torch.channels_last), or at least 8 channels, or train within "
            "torch.backends.mkldnn.flags(enabled=False)",
            stacklevel=2,
        )


@contextmanager
def watched_convolutions(model: nn.Module) -> Iterator[None]:
    """Warn, in a block that runs a model, of convolutions that would corrupt memory on this CPU.

    Compiled models are not checked, because torch.compile chooses its own layouts.
    """
    compiled = any(map(is_compiled, model.modules()))
    if compiled or not convolves_with_avx2():
        yield
        return
    names = {id(p): name.rpartition(".")[0] for name, p in model.named_parameters()}
    with _Watch(names):
        yield
