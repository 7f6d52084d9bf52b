"""The maximal update parametrisation (muP): a rate that stays right when the width grows.

m_in and m_out are the widths of a tensor's input and output side divided by the base model's, and
1 if a side does not grow (Yang et al. 2022, "Tensor Programs V", arXiv:2203.03466, table 3):

                                 Adam        SGD        initial standard deviation
    input weights, biases        1           m_out      unchanged
    hidden weights               1 / m_in    1          unchanged
    output weights               1 / m_in    1 / m_in   times 1 / sqrt(m_in)

"Unchanged" holds for the usual initialisations, whose variance is of the order 1 / fan_in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from etude.errors import BadTypeError, BadValueError
from etude.layerwise.model_parts import parts_of
from etude.layerwise.parts import GATES, Part
from etude.layerwise.policies.policy import Factor, Policy, Setting, number
from etude.layerwise.roles import refuse_guess
from etude.optimizers.table import ROWS

if TYPE_CHECKING:
    from torch import nn

    from etude.layerwise.flow import Flow


@dataclass(frozen=True, repr=False)
class Mup(Policy):
    """Multipliers of the maximal update parametrisation, relative to a base width.

    A rate that was tuned on a model of the base width is then right for a wider one. When Etude
    draws the weights, it also scales the initial output weights by 1 / sqrt(m_in).

    An embedding tied to the head has the rate and the initial scale of an input. Its outputs then
    grow with the width, which no rate can prevent: such a model must divide its outputs by the
    ratio of the widths (table 8 of the paper).

    Args:
        base_width: The width of the base model. If the model's factory has an argument `width`, the
            base model is built with it and the shapes are compared. Otherwise the model's width is
            the output size of the layer that reads the input, and every side is assumed to grow
            except the model's input and output.
        ratios: Instead of `base_width`, name -> (m_in, m_out) of every parameter, as `mup_from`
            returns them.
        init: Whether to scale the initial output weights too; False for pretrained weights.

    Raises:
        BadValueError: If there is no rule for the optimizer, or the names do not fit the model.
    """

    name: ClassVar[str] = "mup"
    base_width: int | None = None
    ratios: Any = ()
    init: bool = True

    def __post_init__(self) -> None:
        if (self.base_width is None) == (not self.ratios):
            raise BadValueError("mup: give base_width=, or ratios= as mup_from returns them")
        if self.base_width is not None and (
            isinstance(self.base_width, bool) or not isinstance(self.base_width, int)
        ):
            raise BadTypeError(f"mup: base_width={self.base_width!r} is not a whole number")
        if self.base_width is not None and self.base_width < 1:
            raise BadValueError(f"mup: base_width={self.base_width!r}: give at least 1")
        if not isinstance(self.init, bool):
            raise BadTypeError(f"mup: init={self.init!r}: give True or False")
        rows = dict(self.ratios).items()
        frozen = []
        for name, pair in rows:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise BadTypeError(f"mup: ratios[{name!r}]={pair!r}: give (m_in, m_out)")
            first, second = (number("mup", f"ratios[{name!r}]", v, open_low=True) for v in pair)
            frozen.append((str(name), (first, second)))
        self.put(ratios=tuple(frozen))

    @property
    def by_role(self) -> bool:
        """Always True: input, hidden and output weights have different rates."""
        return True

    def growth(self, parts: Sequence[Part]) -> list[tuple[float, float]]:
        """Return (m_in, m_out) of each part."""
        if not self.ratios:
            assert self.base_width is not None
            return _read_off(parts, self.base_width)
        known = dict(self.ratios)
        missing = [part.name for part in parts if part.name not in known]
        extra = sorted(set(known) - {part.name for part in parts})
        if missing or extra:
            what = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which the model has not"
            raise BadValueError(f"mup: ratios= is of another model: it {what}; call mup_from again")
        return [known[part.name] for part in parts]

    def factors(self, parts: Sequence[Part], setting: Setting) -> list[Factor]:
        """Return the multipliers of the rate, and of a decoupled decay to keep their product."""
        # The column of the table: 'sgd' if the step grows with the gradient, else 'adam'.
        family = ROWS[setting.optimizer].family if setting.optimizer in ROWS else ""
        if not family:
            known = ", ".join(name for name, row in ROWS.items() if row.family)
            raise BadValueError(f"mup has no rule for {setting.optimizer}: it is known for {known}")
        found = []
        for part, (inside, outside) in zip(parts, self.growth(parts), strict=True):
            if len(part.shape) < 2 or inside == 1:
                found.append(Factor(outside if family == "sgd" else 1.0))
            elif family == "sgd":
                found.append(Factor(1.0 if outside != 1 else 1 / inside))
            else:
                # A decoupled decay shrinks weights by rate × decay, so this product is kept.
                decoupled = ROWS[setting.optimizer].decay == "decoupled"
                found.append(Factor(1 / inside, inside if decoupled else 1.0))
        return found

    def scales(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the factor of the initial output weights, by name.

        A bottleneck inside the model, such as the code of an autoencoder, is not scaled: otherwise
        the initial signal after it would vanish as the width grows.
        """
        refuse_guess(parts, repr(self))
        return {
            part.name: inside**-0.5
            for part, (inside, outside) in zip(parts, self.growth(parts), strict=True)
            if part.role == "output" and len(part.shape) >= 2 and outside == 1 and inside != 1
        }

    def with_ratios(self, model: nn.Module, factory: Callable[..., Any]) -> Mup:
        """Return the same policy with ratios, if the factory can build the base model.

        Args:
            model: The model that will be trained.
            factory: The function that built the model; it needs an argument `width`.
        """
        if self.base_width is None or not _takes_width(factory):
            return self
        return replace(mup_from(model, factory(width=self.base_width)), init=self.init)


def mup_from(model: nn.Module, base: nn.Module) -> Mup:
    """Return the muP policy of a model, from a comparison of its shapes with a base model's.

    Args:
        model: The model that will be trained.
        base: The same model at the width at which the rate was, or will be, tuned.

    Raises:
        BadValueError: If the two have different parameters.

    >>> from torch import nn
    >>> wide, narrow = (nn.Sequential(nn.Linear(3, n), nn.Linear(n, 2)) for n in (64, 16))
    >>> dict(mup_from(wide, narrow).ratios)["1.weight"]
    (4.0, 1.0)
    """
    small = {part.name: part for part in parts_of(base)}
    ratios = {}
    for part in parts_of(model):
        other = small.pop(part.name, None)
        if other is None or len(other.shape) != len(part.shape):
            raise BadValueError(f"mup: the base model has no {part.name} of as many axes")
        ratios[part.name] = (
            1.0 if part.inward is None else part.shape[part.inward] / other.shape[part.inward],
            1.0 if part.outward is None else part.shape[part.outward] / other.shape[part.outward],
        )
    if small:
        raise BadValueError(f"mup: the base model has {next(iter(small))}, the model does not")
    return Mup(ratios=ratios)


def rescale(model: nn.Module, policy: Mup, flow: Flow | None = None) -> None:
    """Scale the output weights of a newly initialised model in place, as muP requires.

    Args:
        model: The network.
        policy: The muP policy of the model.
        flow: The result of `trace` for the model; without it, names tell which layer is the output.

    Raises:
        BadValueError: If the names do not tell it.
    """
    import torch

    scales = policy.scales(parts_of(model, flow)) if policy.init else {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in scales:
                parameter.mul_(scales[name])


def _read_off(parts: Sequence[Part], base_width: int) -> list[tuple[float, float]]:
    """Return (m_in, m_out), if every side grows except the model's input and output."""
    ratio = input_width(parts) / base_width
    found = []
    for part in parts:
        reads = part.role in ("input", "both", "direct")
        recurrent = part.kind == "recurrent" and "_hh" in part.name
        inward = (not reads or recurrent) and part.inward is not None and part.applied
        outward = part.role not in ("output", "direct")
        found.append((ratio if inward else 1.0, ratio if outward else 1.0))
    return found


def input_width(parts: Sequence[Part]) -> float:
    """Return the width of a model: the number of outputs of the layer that reads the input.

    Raises:
        BadValueError: If it cannot be inferred.
    """
    first = next(
        (p for p in parts if p.role in ("input", "both") and p.applied and len(p.shape) >= 2), None
    )
    # For a matrix outside of torch's layers, the axis of the input features is unknown.
    unknown = first is not None and first.kind == "other" and len({*first.shape}) > 1
    if first is None or unknown or all(part.depth == 0 for part in parts):
        raise BadValueError("mup: the width cannot be inferred: give ratios=mup_from(model, base)")
    assert first.outward is not None
    gates = len(GATES.get(first.layer, ())) if first.gates else 1
    return first.shape[first.outward] / gates


def _takes_width(factory: Callable[..., Any]) -> bool:
    try:
        return "width" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False
