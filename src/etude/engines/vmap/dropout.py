"""Dropout under vmap: the very masks that the loop would draw, one per member.

A member's masks come from its own random state, so that they do not depend on who else is in the
stack, and a run that goes on in the plain loop goes on in the same sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude.engines.vmap.recurrent import layer_dropout


@dataclass(frozen=True)
class Mask:
    """One draw of a forward pass.

    Attributes:
        shape: Of one member's input to dropout.
        stride: Of the same, in whose order the numbers are drawn.
        share: What is dropped.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    share: float

    def draw(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """Return a mask, scaled so that the mean stays what it was."""
        mask = torch.empty_strided(self.shape, self.stride, device=device)
        return mask.bernoulli_(1 - self.share, generator=generator).div_(1 - self.share)


def _shares(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> float:
    """Return what a call of dropout drops; 0 where it does nothing."""
    p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    return float(p) if training else 0.0


class _Mode(TorchFunctionMode):
    """Sees every dropout, wherever the model calls it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout or func is layer_dropout:
            share = _shares(func, args, kwargs)
            x = args[0] if args else kwargs["input"]
            return x if not share else self.drop(x, share)
        if func is F.scaled_dot_product_attention:
            share = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
            if share:
                with self:
                    return _attention(*args, **kwargs)
        return func(*args, **kwargs)

    def drop(self, x: Tensor, share: float) -> Tensor:
        raise NotImplementedError


class MaskRecorder(_Mode):
    """Notes which masks a forward pass draws; `plan.masks` are they, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Mask] = []

    def drop(self, x: Tensor, share: float) -> Tensor:
        """Note a mask, and draw it as torch does."""
        like = torch.empty_like(x)
        self.masks.append(Mask(tuple(like.shape), like.stride(), share))
        return torch.dropout(x, share, True)


class MaskReplay(_Mode):
    """Uses masks that were drawn before, in order."""

    def __init__(self, masks: Iterable[Tensor]) -> None:
        super().__init__()
        self._masks = iter(masks)

    def drop(self, x: Tensor, share: float) -> Tensor:
        """Apply the next mask."""
        return x * next(self._masks)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute attention step by step, so that its dropout is one that can be seen.

    dropout(softmax(q kᵀ · scale + mask)) v
    """
    if enable_gqa:
        raise NotImplementedError("grouped queries with dropout")
    size = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * math.sqrt(size)) @ (key * math.sqrt(size)).transpose(-2, -1)
    if is_causal:
        lower = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~lower, -math.inf)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(scores.softmax(-1), dropout_p) @ value
