"""How the processes of a run exchange gradients: plainly, compressed, or only now and then."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from etude.errors import BadTypeError, BadValueError, check_whole, shown, unknown_name
from etude.layerwise.policies.policy import Named

SMALLEST_START = 2
"""torch rebuilds DDP's buckets after the first update; PowerSGD may start after the second."""

NONE = "none"
"""The text for an exchange without compression."""

_TEXT = re.compile(r"\s*(?P<name>[A-Za-z][\w-]*)\s*(?P<arguments>\(.*\))?\s*", re.DOTALL)


@dataclass(frozen=True, repr=False)
class Compression(Named):
    """How gradients are exchanged; `repr` is its text form, such as 'topk(ratio=0.05)'."""

    by_position: ClassVar[int] = 0


@dataclass(frozen=True, repr=False)
class HalfExchange(Compression):
    """Send gradients as 16-bit floats: half of the bytes, 11 significant bits.

    Each process divides its gradient by the number of processes, rounds it to float16, and the sum
    is rounded too. Entries above 65,504 overflow, entries below 6e-8 become 0.

    Source: torch's `fp16_compress_hook`.

    >>> HalfExchange()
    fp16()
    """

    name: ClassVar[str] = "fp16"


@dataclass(frozen=True, repr=False)
class BrainExchange(Compression):
    """Send gradients as bfloat16: half of the bytes, the range of float32, 8 significant bits.

    Source: torch's `bf16_compress_hook`.

    >>> BrainExchange()
    bf16()
    """

    name: ClassVar[str] = "bf16"


@dataclass(frozen=True, repr=False)
class PowerSGD(Compression):
    """Send each gradient matrix as two thin ones, and add what was left out to the next gradient.

        M ≈ P Qᵀ,  P = orthogonal(M Q),  Q = Mᵀ P,  e ← M - P Qᵀ

    M is a gradient plus the error e of the update before, n × m with a convolution's kernels
    flattened; (n + m) · rank numbers are sent instead of n · m. Vectors, and matrices that this
    would not make at least half as large, are sent whole.

    Args:
        rank: The columns of P and Q, at least 1.
        start: The first update, counted from 0, that is compressed: at least 2, because torch
            arranges its buckets anew after the first update. None takes the end of the schedule's
            warmup, but at most a 200th of the run: whole gradients are most of what is sent.

    Source: Vogels et al. 2019, arXiv:1905.13727; torch's `powerSGD_hook`.

    >>> PowerSGD(rank=2)
    powersgd(rank=2)
    """

    name: ClassVar[str] = "powersgd"
    rank: int = 1
    start: int | None = None

    def __post_init__(self) -> None:
        self.put(rank=_whole(self.name, "rank", self.rank, 1))
        if self.start is not None:
            self.put(start=_whole(self.name, "start", self.start, SMALLEST_START))


@dataclass(frozen=True, repr=False)
class TopK(Compression):
    """Send only the largest entries of each gradient, and keep the others for later updates.

        a = g + e,  send the k = ⌈ratio · n⌉ entries of a with the largest |a|,  e ← a - sent

    Nothing is lost: an entry waits in e until it is among the largest. An entry is sent as its
    value and its place.

    Args:
        ratio: The share of the entries of each tensor that is sent, in (0, 1]; at least one entry.

    Source: Aji and Heafield 2017, arXiv:1704.05021; Stich et al. 2018, arXiv:1809.07599.

    >>> TopK(ratio=0.05)
    topk(ratio=0.05)
    """

    name: ClassVar[str] = "topk"
    ratio: float = 0.01

    def __post_init__(self) -> None:
        ratio = _number(self.name, "ratio", self.ratio)
        if not 0 < ratio <= 1:
            raise BadValueError(f"topk: ratio={ratio!r} is out of bounds: give a number in (0, 1]")
        self.put(ratio=ratio)


@dataclass(frozen=True, repr=False)
class LocalSGD(Compression):
    """Update each process's weights by its own gradient, and average the weights now and then.

    Gradients are averaged up to the update `start`, and after it the weights are averaged at every
    `period`-th update and at the last one. The optimizer's moments stay each process's own.

    Args:
        period: The updates between two averages, at least 1.
        start: The first update, counted from 0, without an exchange of gradients; None takes the
            update at which the schedule reaches its largest rate, the end of the warmup.

    Source: Lin et al. 2018 (post-local SGD), arXiv:1808.07217.

    >>> LocalSGD(period=4)
    local-sgd(period=4)
    """

    name: ClassVar[str] = "local-sgd"
    period: int = 8
    start: int | None = None

    def __post_init__(self) -> None:
        self.put(period=_whole(self.name, "period", self.period, 1))
        if self.start is not None:
            self.put(start=_whole(self.name, "start", self.start, 0))


@dataclass(frozen=True, repr=False)
class DiLoCo(Compression):
    """Train each process alone for many updates, then make one outer step on the mean difference.

        Δ = θ - mean over processes of θᵢ,   v ← momentum · v + Δ,   θ ← θ - lr (Δ + momentum · v)

    θ are the weights after the last outer step, θᵢ those of process i after `inner` updates. The
    last outer step is at the last update. The inner optimizer's moments stay each process's own.

    Args:
        inner: The updates between two outer steps, at least 1.
        lr: The rate of the outer step, above 0.
        momentum: Of the outer step (Nesterov), in [0, 1). None takes 0.9, the paper's, if there are
            400 outer steps or more, else 1 - 40 / outer steps, at least 0: the momentum then
            remembers a fortieth of the run at most, and the end of the schedule still counts.

    Source: Douillard et al. 2023, arXiv:2311.08105.

    >>> DiLoCo(inner=20)
    diloco(inner=20)
    """

    name: ClassVar[str] = "diloco"
    inner: int = 50
    lr: float = 0.7
    momentum: float | None = None

    def __post_init__(self) -> None:
        self.put(inner=_whole(self.name, "inner", self.inner, 1))
        lr = _number(self.name, "lr", self.lr)
        if lr <= 0:
            raise BadValueError(f"diloco: lr={lr!r} is out of bounds: give a number above 0")
        self.put(lr=lr)
        if self.momentum is None:
            return
        momentum = _number(self.name, "momentum", self.momentum)
        if not 0 <= momentum < 1:
            raise BadValueError(
                f"diloco: momentum={momentum!r} is out of bounds: give a number in [0, 1)"
            )
        self.put(momentum=momentum)


COMPRESSIONS: Mapping[str, type[Compression]] = MappingProxyType(
    {kind.name: kind for kind in (HalfExchange, BrainExchange, PowerSGD, TopK, LocalSGD, DiLoCo)}
)
"""The ways to exchange less, by name."""


def compression(value: object) -> Compression | None:
    """Return a way to exchange gradients, or the one that a text names; None for none.

    Raises:
        BadTypeError: If it is neither.
        BadValueError: If a number in the text is out of bounds.
        UnknownNameError: If there is none of that name.

    >>> compression("powersgd(rank=2)"), compression("local-sgd"), compression("none")
    (powersgd(rank=2), local-sgd(), None)
    """
    from etude.layerwise.policies.text import expression, read_call

    if value is None or isinstance(value, Compression):
        return value
    if not isinstance(value, str):
        raise BadTypeError(
            f"compress={shown(value)}: give {', '.join(map(repr, (NONE, *COMPRESSIONS)))}, or one "
            "with numbers such as 'powersgd(rank=2)'"
        )
    found = _TEXT.fullmatch(value)
    name = "" if found is None else found["name"].replace("_", "-").lower()
    if found is None or name not in (NONE, *COMPRESSIONS):
        raise unknown_name("compression", value.strip() if found is None else found["name"],
                           (NONE, *COMPRESSIONS))  # fmt: skip
    if name == NONE:
        if (found["arguments"] or "()").strip("() \n"):
            raise BadValueError(f"compress={shown(value)}: 'none' takes no numbers")
        return None
    plain = name.replace("-", "_") + (found["arguments"] or "()")
    table = {name.replace("-", "_"): COMPRESSIONS[name]}
    return read_call(expression(plain), plain, table)


def _whole(kind: str, name: str, value: object, least: int) -> int:
    try:
        return check_whole(name, value, least)
    except (BadTypeError, BadValueError) as error:
        raise type(error)(f"{kind}: {error}") from None


def _number(kind: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadTypeError(f"{kind}: {name}={shown(value)} is not a number")
    try:
        found = float(value)
    except OverflowError:  # a whole number beyond the largest float
        found = math.inf
    if not math.isfinite(found):
        raise BadValueError(f"{kind}: {name}={shown(value)} is out of bounds: give a finite number")
    return found
