"""Finds the divisor of a loss by watching the torch functions that the loss calls.

A mean-reduced loss of torch divides by a number that follows from its arguments; a mean divides
by the number of its elements; a user's own loss divides explicitly. Each result is tagged with
its divisor, and the tag of the value that the loss returns is the weight of the loss.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from etude.tasks.loss.divisors import DIVISORS, exact

Weigh = Callable[[], "float | Tensor | None"]


@dataclass(frozen=True)
class _Term:
    """A mean in a sum of means: a number times the mean, and the mean's weight."""

    mean: Tensor
    weight: Weigh
    factor: float = 1.0


@dataclass(frozen=True)
class _Tag:
    """Tags a scalar as a mean over a weight, or as a sum.

    `recompute` computes the mean with a divisor that is never 0, so that its gradient is not NaN;
    None if the gradient is finite anyway. `terms` are the means that were added up.
    """

    tensor: Tensor
    weight: Weigh | None
    recompute: Callable[[], Tensor] | None = None
    terms: tuple[_Term, ...] = ()

    @property
    def is_sum(self) -> bool:
        return self.weight is None


class Scales(TorchFunctionMode):
    """Watches the torch functions called in its block, and tags results that are means or sums."""

    def __init__(self) -> None:
        super().__init__()
        # Keyed by id(). The tensor is kept with its tag, so that no new tensor can reuse the id.
        self._tags: dict[int, _Tag] = {}
        self._bare: dict[int, tuple[Tensor, Tensor]] = {}
        self._mixed: dict[int, tuple[Tensor, bool]] = {}
        self._zeros: dict[int, Tensor] = {}
        self._over: dict[int, tuple[Tensor, Tensor]] = {}
        self._inverse: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function, then apply its rule to the result."""
        kwargs = kwargs or {}
        rule = _rules().get(func)
        seen = args
        if _changes(func, args):
            seen = (self._before(args[0]), *args[1:])
        result = func(*args, **kwargs)
        if rule is not None and isinstance(result, Tensor):
            rule(self, result, seen, kwargs)
        return result

    def _before(self, scalar: Tensor) -> Tensor:
        """Return a copy of a scalar that is about to change in place, and give its tags to it."""
        old = scalar.clone()
        if (tag := self._tag(scalar)) is not None:
            self._tags[id(old)] = replace(tag, tensor=old)
        for table in (self._bare, self._over, self._inverse):
            if (pair := table.pop(id(scalar), None)) is not None:
                table[id(old)] = (old, pair[1])
        if self._zeros.pop(id(scalar), None) is not None:
            self._zeros[id(old)] = old
        self._tags.pop(id(scalar), None)
        return old

    def weight(self, result: Any) -> float | Tensor | None:
        """Return the divisor of a result; None if it is not known to be a mean."""
        tag = self._tag(result)
        if tag is None or tag.weight is None:
            return None
        weight = tag.weight()
        return weight.detach() if isinstance(weight, Tensor) else weight

    def terms(self, result: Any) -> tuple[tuple[Tensor, float | Tensor], ...]:
        """Return the means whose sum is a result, each with its divisor; empty if not known."""
        tag = self._tag(result)
        found = []
        for term in () if tag is None else tag.terms:
            if (weight := term.weight()) is None:
                return ()
            known = weight.detach() if isinstance(weight, Tensor) else weight
            found.append((term.mean.detach().reshape(()) * term.factor, known))
        return tuple(found)

    def with_finite_gradient(self, result: Any) -> Any:
        """Return the result, computed a second time if its gradient would be NaN otherwise."""
        tag = self._tag(result)
        return result if tag is None or tag.recompute is None else tag.recompute()

    # ---- rules: how a call changes the tags --------------------------------------------------

    def _tag(self, value: Any) -> _Tag | None:
        tag = self._tags.get(id(value))
        return tag if tag is not None and tag.tensor is value else None

    def _set(
        self,
        result: Tensor,
        weight: Weigh | None,
        recompute: Callable[[], Tensor] | None = None,
        terms: tuple[_Term, ...] = (),
    ) -> None:
        if result.numel() == 1:
            self._tags[id(result)] = _Tag(result, weight, recompute, terms)

    def known_loss(self, result: Tensor, rule: Weigh, reduction: str) -> None:
        """Tag a loss of torch."""
        if reduction == "mean":
            self._set(result, rule)
        elif reduction == "sum":
            self._set(result, None)

    def mean(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tag a mean over everything with the number of elements."""
        source = _input_of(args, kwargs)
        if result.ndim or id(source) in self._mixed:
            return
        count, over = float(source.numel()), self._divided(source)
        if over is None:
            self._set(result, lambda: count)
        elif not self._is_sum(over):  # mean(loss · w / mean(w))
            share = self._answers(over)
            self._set(result, lambda: _product(count, share))

    def nanmean(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tag a mean over the elements that are not NaN."""
        source = _input_of(args, kwargs)
        if result.ndim == 0 and id(source) not in self._mixed:
            count = (~source.isnan()).sum()
            self._set(result, lambda: count)

    def sum(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Tag a sum over everything, or over the products of two vectors."""
        given = (*args, *kwargs.values())
        sources = [value for value in given if isinstance(value, Tensor)]
        if result.ndim or not all(self._adds_up(source) for source in sources):
            return
        over = [d for d in map(self._divided, sources) if d is not None]
        if not over:
            self._set(result, None)
        elif len(over) == 1 and self._is_sum(over[0]):  # sum(loss · w / sum(w))
            weight = self._answers(over[0])
            self._set(result, lambda: weight.reshape(()))

    def zero(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record an empty sum, the start value of a loop that adds up losses."""
        if result.numel() == 1:
            self._zeros[id(result)] = result

    def number(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record a 0 that is written as a tensor."""
        value = args[0] if args else kwargs.get("data")
        if _is_number(value) and value == 0:
            self.zero(result, args, kwargs)

    def stack(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record that the elements of a stack are losses themselves, each with a weight."""
        parts = args[0] if args else kwargs.get("tensors", ())
        tags = [self._tag(part) for part in parts]
        if any(tag is not None for tag in tags):
            sums = all(tag is not None and tag.is_sum for tag in tags)
            self._mixed[id(result)] = (result, sums)

    def same(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Copy a tag to the same value in another type or shape, or with the opposite sign."""
        source = _input_of(args, kwargs)
        if (tag := self._tag(source)) is not None:
            self._set(result, tag.weight, terms=tag.terms)
        if (over := self._divided(source)) is not None:
            self._over[id(result)] = (result, over)
        if result.numel() == 1 and (bare := self._bare.get(id(source))) is not None:
            self._bare[id(result)] = (result, bare[1])

    def negated(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Copy a tag to the value with the opposite sign."""
        self.same(result, args, kwargs)
        if (tag := self._tag(result)) is not None and tag.terms:
            self._set(result, tag.weight, terms=_times(tag.terms, -1.0))

    def bounded(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record a divisor as it was before a bound kept it away from 0."""
        source = _input_of(args, kwargs)
        if result.numel() == 1 and isinstance(source, Tensor) and source.numel() == 1:
            self._bare[id(result)] = (result, self._under(source))

    def scale(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A number times a mean is a mean over the same."""
        first, second = _operands(args, kwargs)
        for tag, factor in ((self._tag(first), second), (self._tag(second), first)):
            if tag is not None and (inverse := self._inverse.get(id(factor))) is not None:
                return self._divide(result, tag, inverse[1], plain=True)
            if tag is not None and _is_number(factor):
                inner = tag.recompute
                recompute = None if inner is None else partial(_scaled, inner, factor)
                self._set(result, tag.weight, recompute, _times(tag.terms, factor))
        over = [d for d in map(self._divided, (first, second)) if d is not None]
        if len(over) == 1 and result.ndim:
            self._over[id(result)] = (result, over[0])

    def add(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A mean plus a number, or plus another mean over the same, is a mean over the same."""
        first, second = _operands(args, kwargs)
        for zero, rest in ((first, second), (second, first)):
            if self._is_zero(zero) and (tag := self._tag(rest)) is not None:
                if tag.is_sum:  # the sum may be used as a divisor, and adding 0 does not bound it
                    self.bounded(result, (rest,), {})
                return self._set(result, tag.weight, terms=tag.terms)
        tags = self._tag(first), self._tag(second)
        if tags[0] is not None and tags[1] is not None:
            self._sum_of(result, tags[0], tags[1])
            return
        tag, rest = (tags[0], second) if tags[0] is not None else (tags[1], first)
        if tag is not None and tag.weight is not None and _is_number(rest):
            self._set(result, tag.weight)
        if tag is not None and tag.is_sum and _is_number(rest) and 0 <= rest < 1e-2:
            self.bounded(result, args, kwargs)  # a divisor that was kept away from 0

    def plus(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A sum of means over different numbers is known by its terms."""
        tags = [self._tag(value) for value in _operands(args, kwargs)]
        self.add(result, args, kwargs)
        first, second = tags
        if first is None or second is None or len(args) > 2 or kwargs.get("alpha", 1) != 1:
            return
        if (sums := self._tag(result)) is not None and not sums.is_sum:
            self._set(result, sums.weight, sums.recompute, (*_terms(first), *_terms(second)))

    def _sum_of(self, result: Tensor, first: _Tag, second: _Tag) -> None:
        if first.weight is None or second.weight is None:
            if first.is_sum and second.is_sum:
                self._set(result, None)
            return
        first_weight, second_weight = first.weight, second.weight

        def weight() -> float | Tensor | None:
            a, b = first_weight(), second_weight()
            return a if _equal(a, b) else None

        self._set(result, weight)

    def divide(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A sum over a number, or over a tensor without gradient, is a mean over it."""
        total, divisor = _operands(args, kwargs)
        if (tag := self._tag(total)) is not None:
            self._divide(result, tag, divisor)
        elif _is_constant(divisor) and isinstance(total, Tensor) and total.ndim:
            self._spread(result, divisor)

    def _spread(self, result: Tensor, divisor: Tensor) -> None:
        """Record that the elements of a tensor were divided by a sum or a mean."""
        if self._tag(divisor) is not None or id(divisor) in self._bare:
            self._over[id(result)] = (result, divisor)

    def inverse(self, result: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Record the number whose inverse a result is."""
        source, numerator = args[0], args[1] if len(args) > 1 else 1
        if _is_constant(source) and _is_number(numerator) and numerator == 1:
            self._inverse[id(result)] = (result, source)

    def _divide(self, result: Tensor, tag: _Tag, divisor: Any, *, plain: bool = False) -> None:
        """Tag the quotient of a sum or a mean.

        Args:
            result: The quotient.
            tag: The tag of the dividend.
            divisor: The divisor.
            plain: Whether the quotient was not computed by a division, so that it is kept as it is.
        """
        total = tag.tensor
        if tag.is_sum:
            if _is_number(divisor) and divisor >= 0:
                self._set(result, lambda: float(divisor))
            elif _is_constant(divisor):
                safe = torch.where(divisor == 0, torch.ones_like(divisor), divisor)
                weight = self._answers(divisor, total).reshape(())
                self._set(result, lambda: weight, None if plain else lambda: total / safe)
        elif _is_number(divisor):
            inner_mean = tag.recompute
            recompute = None
            if inner_mean is not None and divisor != 0:
                recompute = partial(_scaled, inner_mean, 1 / divisor)
            terms = _times(tag.terms, 1 / divisor) if divisor else ()
            self._set(result, tag.weight, recompute, terms)
        elif _is_constant(divisor) and (share := self._tag(divisor)) and not share.is_sum:
            # mean(loss · mask) / mean(mask)
            inner = tag.weight
            assert inner is not None
            self._set(result, lambda: _product(inner(), self._under(divisor)))

    def _answers(self, divisor: Tensor, total: Tensor | None = None) -> Tensor:
        """Return a divisor as a weight: 0 if it was 0 before a bound kept it away from 0.

        Of a sum that is not 0 it is the bound: the negative targets of a focal loss count alone.
        """
        none = self._under(divisor) == 0
        none = none if total is None else none & ((total == 0) | total.isnan())
        return torch.where(none, torch.zeros_like(divisor), divisor)

    def _is_sum(self, divisor: Tensor) -> bool:
        tag = self._tag(divisor) or self._tag(self._under(divisor))
        return tag is not None and tag.is_sum

    def _is_zero(self, value: Any) -> bool:
        return (_is_number(value) and value == 0) or self._zeros.get(id(value)) is value

    def _adds_up(self, source: Tensor) -> bool:
        """Return whether a tensor's elements add up to a sum over targets, not a sum of means."""
        return self._mixed.get(id(source), (source, True))[1]

    def _divided(self, value: Any) -> Tensor | None:
        """Return the number by which a tensor's elements, or a factor of them, were divided."""
        kept = self._over.get(id(value))
        return kept[1] if kept is not None and kept[0] is value else None

    def _under(self, divisor: Tensor) -> Tensor:
        kept = self._bare.get(id(divisor))
        return kept[1] if kept is not None and kept[0] is divisor else divisor


def _input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs.get("input")


def _operands(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    return _input_of(args, kwargs), args[1] if len(args) > 1 else kwargs.get("other")


def _scaled(mean: Callable[[], Tensor], factor: float) -> Tensor:
    return mean() * factor


def _terms(tag: _Tag) -> tuple[_Term, ...]:
    """Return the means that were added up to a mean: itself, if it is no sum of several."""
    return tag.terms or (() if tag.weight is None else (_Term(tag.tensor, tag.weight),))


def _times(terms: tuple[_Term, ...], factor: float) -> tuple[_Term, ...]:
    return tuple(replace(term, factor=term.factor * factor) for term in terms)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _changes(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether a call changes a scalar in place."""
    name = getattr(func, "__name__", "")
    return (
        name.endswith("_")
        and not name.endswith("__")
        and name != "requires_grad_"
        and bool(args)
        and isinstance(args[0], Tensor)
        and args[0].numel() == 1
    )


def _is_constant(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad


def _equal(first: float | Tensor | None, second: float | Tensor | None) -> bool:
    if first is None or second is None:
        return False
    if first is second:
        return True
    try:
        return float(first) == float(second)
    except RuntimeError:  # under vmap a number has one value per member
        return False


def _product(count: float | Tensor | None, share: Tensor) -> Tensor | None:
    return None if count is None else exact(share.detach().reshape(())) * count


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
            scales.known_loss(result, lambda: DIVISORS[name](given), reduction)

    return rule


@cache
def _rules() -> Mapping[Any, Rule]:
    """Return the rule of each torch function that has one."""
    rules: dict[Any, Rule] = {getattr(F, name): _loss_rule(name) for name in DIVISORS}
    for rule, names in (
        (Scales.mean, ("mean",)),
        (Scales.nanmean, ("nanmean",)),
        (Scales.sum, ("sum", "dot", "vdot", "inner", "nansum", "matmul", "__matmul__", "einsum")),
        (Scales.stack, ("stack", "cat", "hstack")),
        (Scales.zero, ("zeros", "zeros_like", "new_zeros")),
        (Scales.number, ("tensor", "scalar_tensor")),
        (Scales.same, ("float", "double", "to", "type", "reshape", "view", "view_as", "squeeze")),
        (Scales.same, ("detach", "contiguous", "flatten", "clone")),
        (Scales.negated, ("neg", "negative", "__neg__")),
        (Scales.bounded, ("clamp_min", "clamp", "clip", "maximum", "max")),
        (Scales.bounded, ("clamp_min_", "clamp_", "clip_")),
        (Scales.scale, ("mul", "multiply", "__mul__", "__rmul__", "mul_", "multiply_")),
        (Scales.plus, ("add", "__add__", "__radd__", "add_", "__iadd__")),
        (Scales.add, ("sub", "__sub__", "__rsub__", "rsub", "sub_", "subtract", "subtract_")),
        (Scales.divide, ("div", "divide", "true_divide", "__truediv__", "__div__")),
        (Scales.divide, ("div_", "divide_", "true_divide_")),
        (Scales.inverse, ("reciprocal", "__rtruediv__", "__rdiv__")),
    ):
        for name in names:
            for home in (torch, Tensor):
                if (function := getattr(home, name, None)) is not None:
                    rules[function] = rule
    return rules
