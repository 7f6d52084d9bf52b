"""Finds what a loss divided by, from the calls of torch that it makes.

Every mean-reduced loss of torch divides by a number that its arguments tell; a mean by the number
of its elements; a loss of the user's own by what stands under the line. Each result is tagged with
it, and the tag of what the loss returns is its weight.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Weigh = Callable[[], "float | Tensor | None"]


@dataclass(frozen=True)
class _Tag:
    """What is known of a scalar: that it is a mean over a weight, or a sum.

    `again` computes it anew with a divisor that is never 0, whose gradient is a number too; None
    where it has one anyway.
    """

    tensor: Tensor
    weight: Weigh | None
    again: Callable[[], Tensor] | None = None

    @property
    def is_sum(self) -> bool:
        return self.weight is None


class Scales(TorchFunctionMode):
    """Watches the calls of torch in its block, and tags the means and sums among the results."""

    def __init__(self) -> None:
        super().__init__()
        # By identity; the tensor is kept with the tag, so that no other can take its number.
        self._tags: dict[int, _Tag] = {}
        self._bare: dict[int, tuple[Tensor, Tensor]] = {}
        self._mixed: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, then look at what it was."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        rule = _rules().get(func)
        if rule is not None and isinstance(result, Tensor):
            rule(self, result, args, kwargs)
        return result

    def weight(self, result: Any) -> float | Tensor | None:
        """Return what a result was divided by; None where it is no mean that was seen."""
        tag = self._tag(result)
        if tag is None or tag.weight is None:
            return None
        weight = tag.weight()
        return weight.detach() if isinstance(weight, Tensor) else weight

    def again(self, result: Any) -> Any:
        """Return a result with a gradient that is a number, should the divisor be 0."""
        tag = self._tag(result)
        return result if tag is None or tag.again is None else tag.again()

    # ---- what a call makes of the tags -------------------------------------------------------

    def _tag(self, value: Any) -> _Tag | None:
        tag = self._tags.get(id(value))
        return tag if tag is not None and tag.tensor is value else None

    def _set(
        self, result: Tensor, weight: Weigh | None, again: Callable[[], Tensor] | None = None
    ) -> None:
        if result.numel() == 1:
            self._tags[id(result)] = _Tag(result, weight, again)

    def known_loss(self, result: Tensor, rule: Weigh, reduction: str) -> None:
        """Tag a loss of torch."""
        if reduction == "mean":
            self._set(result, rule)
        elif reduction == "sum":
            self._set(result, None)

    def mean(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tag a mean over everything with the number of elements."""
        source = _first(args, kwargs)
        if result.ndim == 0 and id(source) not in self._mixed:
            count = float(source.numel())
            self._set(result, lambda: count)

    def sum(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tag a sum over everything."""
        if result.ndim == 0 and id(_first(args, kwargs)) not in self._mixed:
            self._set(result, None)

    def stack(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Note that the elements of a stack are losses themselves, each with a weight."""
        parts = args[0] if args else kwargs.get("tensors", ())
        if any(self._tag(part) is not None for part in parts):
            self._mixed[id(result)] = result

    def same(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Pass a tag on: the same value in another type or shape, or with the other sign."""
        source = _first(args, kwargs)
        if (tag := self._tag(source)) is not None:
            self._set(result, tag.weight)
        if result.numel() == 1 and (bare := self._bare.get(id(source))) is not None:
            self._bare[id(result)] = (result, bare[1])

    def bounded(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Remember a divisor as it was before it was kept away from 0."""
        source = _first(args, kwargs)
        if result.numel() == 1 and isinstance(source, Tensor) and source.numel() == 1:
            self._bare[id(result)] = (result, self._under(source))

    def scale(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A number times a mean is a mean over the same."""
        one, other = _two(args, kwargs)
        for tag, factor in ((self._tag(one), other), (self._tag(other), one)):
            if tag is not None and _is_number(factor):
                inner = tag.again
                again = None if inner is None else partial(_scaled, inner, factor)
                self._set(result, tag.weight, again)

    def add(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A mean plus a number, or plus another mean over the same, is a mean over the same."""
        one, other = _two(args, kwargs)
        tags = self._tag(one), self._tag(other)
        if tags[0] is not None and tags[1] is not None:
            self._sum_of(result, tags[0], tags[1])
            return
        tag, rest = (tags[0], other) if tags[0] is not None else (tags[1], one)
        if tag is not None and tag.weight is not None and _is_number(rest):
            self._set(result, tag.weight)
        if tag is not None and tag.is_sum and _is_number(rest) and 0 <= rest < 1e-2:
            self.bounded(result, args, kwargs)  # a divisor that was kept away from 0

    def _sum_of(self, result: Tensor, one: _Tag, other: _Tag) -> None:
        if one.weight is None or other.weight is None:
            if one.is_sum and other.is_sum:
                self._set(result, None)
            return
        first, second = one.weight, other.weight

        def weight() -> float | Tensor | None:
            a, b = first(), second()
            return a if _equal(a, b) else None

        self._set(result, weight)

    def divide(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A sum over a number, or over a tensor without gradient, is a mean over it."""
        total, divisor = _two(args, kwargs)
        tag = self._tag(total)
        if tag is None:
            return
        if tag.is_sum:
            if _is_number(divisor) and divisor >= 0:
                self._set(result, lambda: float(divisor))
            elif _is_constant(divisor):
                bare = self._under(divisor)
                safe = torch.where(divisor == 0, torch.ones_like(divisor), divisor)
                # What keeps a divisor away from 0 adds no answer where there is none.
                weight = torch.where(bare == 0, torch.zeros_like(divisor), divisor)
                self._set(result, lambda: weight.reshape(()), lambda: total / safe)
        elif _is_number(divisor):
            inner_mean = tag.again
            again = None
            if inner_mean is not None and divisor != 0:
                again = partial(_scaled, inner_mean, 1 / divisor)
            self._set(result, tag.weight, again)
        elif _is_constant(divisor) and (share := self._tag(divisor)) and not share.is_sum:
            # mean(loss · mask) / mean(mask)
            inner = tag.weight
            assert inner is not None
            self._set(result, lambda: _product(inner(), self._under(divisor)))

    def _under(self, divisor: Tensor) -> Tensor:
        kept = self._bare.get(id(divisor))
        return kept[1] if kept is not None and kept[0] is divisor else divisor


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input")


def _two(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    return _first(args, kwargs), args[1] if len(args) > 1 else kwargs.get("other")


def _scaled(mean: Callable[[], Tensor], factor: float) -> Tensor:
    return mean() * factor


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_constant(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad


def _equal(one: float | Tensor | None, other: float | Tensor | None) -> bool:
    if one is None or other is None:
        return False
    if one is other:
        return True
    try:
        return float(one) == float(other)
    except RuntimeError:  # numbers of many members at once have no single value
        return False


def _product(count: float | Tensor | None, share: Tensor) -> Tensor | None:
    return None if count is None else _exact(share.detach().reshape(())) * count


def _exact(weights: Tensor) -> Tensor:
    """Return numbers in double precision, where the device has it."""
    return weights if weights.device.type == "mps" else weights.double()


# ---- the losses of torch ---------------------------------------------------------------------


def _labels(given: Mapping[str, Any]) -> float | Tensor:
    """Cross-entropy and the negative log-likelihood: Σ of the weights of the answered labels."""
    scores: Tensor = given["input"]
    target: Tensor = given["target"]
    weight: Tensor | None = given.get("weight")
    if target.is_floating_point():  # probabilities of the classes: a mean over the places
        return float(scores.numel() / scores.shape[1 if scores.ndim > 1 else 0])
    answered: Tensor = target != given.get("ignore_index", -100)
    if weight is None:
        return answered.sum()
    return (_exact(weight[torch.where(answered, target, 0)]) * answered).sum()


def _elements(given: Mapping[str, Any]) -> float | Tensor:
    one, _ = torch.broadcast_tensors(given["input"], given["target"])  # type: ignore[no-untyped-call]
    return float(one.numel())


def _by_elements_or_weight(given: Mapping[str, Any]) -> float | Tensor:
    weight = given.get("weight")
    return _elements(given) if weight is None else _exact(weight.detach()).sum()


def _divergence(given: Mapping[str, Any]) -> float | Tensor:
    scores = given["input"]
    return float(scores.shape[0]) if given["reduction"] == "batchmean" else _elements(given)


def _sequences(given: Mapping[str, Any]) -> float | Tensor:
    """CTC divides each sequence by its target's length, then takes the mean over the batch."""
    scores = given["log_probs"]
    return float(scores.shape[1] if scores.ndim == 3 else 1)


_LOSSES: Mapping[str, Callable[[Mapping[str, Any]], float | Tensor]] = {
    "cross_entropy": _labels,
    "nll_loss": _labels,
    "binary_cross_entropy": _elements,  # weights scale the terms, and the mean is over all
    "binary_cross_entropy_with_logits": _elements,
    "mse_loss": _by_elements_or_weight,
    "l1_loss": _by_elements_or_weight,
    "smooth_l1_loss": _elements,
    "huber_loss": _elements,
    "gaussian_nll_loss": _elements,
    "poisson_nll_loss": _elements,
    "soft_margin_loss": _elements,
    "kl_div": _divergence,
    "ctc_loss": _sequences,
}

Rule = Callable[[Scales, Tensor, tuple[Any, ...], Mapping[str, Any]], None]


def _loss_rule(name: str) -> Rule:
    names = tuple(inspect.signature(getattr(F, name)).parameters)

    def rule(
        scales: Scales, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        given.setdefault("reduction", "mean")
        if given.get("size_average") is None and given.get("reduce") is None:
            reduction = str(given["reduction"]).replace("batchmean", "mean")
            scales.known_loss(result, lambda: _LOSSES[name](given), reduction)

    return rule


@cache
def _rules() -> Mapping[Any, Rule]:
    """Return what to do after each function of torch that matters."""
    rules: dict[Any, Rule] = {getattr(F, name): _loss_rule(name) for name in _LOSSES}
    for rule, names in (
        (Scales.mean, ("mean",)),
        (Scales.sum, ("sum", "dot", "nansum")),
        (Scales.stack, ("stack", "cat", "hstack")),
        (Scales.same, ("float", "double", "to", "type", "reshape", "view", "squeeze", "clone")),
        (Scales.same, ("neg", "negative", "__neg__", "detach", "contiguous", "flatten")),
        (Scales.bounded, ("clamp_min", "clamp", "clip", "maximum", "max")),
        (Scales.scale, ("mul", "multiply", "__mul__", "__rmul__", "mul_")),
        (Scales.add, ("add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "rsub")),
        (Scales.divide, ("div", "divide", "true_divide", "__truediv__", "__div__", "div_")),
    ):
        for name in names:
            for home in (torch, Tensor):
                if (function := getattr(home, name, None)) is not None:
                    rules[function] = rule
    return rules
