"""Dropout under vmap, with the same masks that the loop would draw, one per member.

A member's masks come from its own random state. They do not depend on the other members of the
stack, and a run that continues in the plain loop continues the same random sequence.
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
    """One dropout mask of a forward pass.

    Attributes:
        shape: The shape of one member's input to dropout.
        stride: Its stride, which determines the order in which the numbers are drawn.
        share: The probability of an element to be dropped.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    share: float

    def draw(self, generator: torch.Generator, device: torch.device) -> Tensor:
        """Return a mask, scaled so that dropout does not change the mean."""
        mask = torch.empty_strided(self.shape, self.stride, device=device)
        return mask.bernoulli_(1 - self.share, generator=generator).div_(1 - self.share)


def _probability(args: Any, kwargs: Mapping[str, Any]) -> float:
    """Return the dropout probability of a call; 0 if the call is not in training mode."""
    p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    return float(p) if training else 0.0


class _Mode(TorchFunctionMode):
    """Intercepts every call of dropout in a model."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.dropout or func is layer_dropout:
            share = _probability(args, kwargs)
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
    """Records the masks that a forward pass draws, in order, in `masks`."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[Mask] = []

    def drop(self, x: Tensor, share: float) -> Tensor:
        """Record a mask, and draw it as torch does."""
        like = torch.empty_like(x)
        self.masks.append(Mask(tuple(like.shape), like.stride(), share))
        return torch.dropout(x, share, True)


class MaskReplay(_Mode):
    """Applies masks that are already drawn, in order."""

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
    """Compute attention step by step, so that its dropout can be intercepted.

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
