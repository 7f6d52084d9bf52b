"""Ranks optimizers for a task by its measured traits: pure rules, with their reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etude.optimizers.row import OptimizerRow, Trait, WeightedReason
from etude.optimizers.table import ROWS

SMALL = 100_000
"""The number of parameters up to which a second-order step is affordable."""

CLEAR, NOISY = 0.5, 8.0
"""Noise scale over batch size below which a batch's gradient is nearly the full gradient, and above
which it is mostly noise."""

SPREAD = 12.0
"""The ratio of the largest to the root-mean-square eigenvalue from which one rate does not suit all
directions."""

BURSTS = 4.0
"""The ratio of the largest to the median gradient norm from which gradients count as unstable."""


@dataclass(frozen=True)
class Traits:
    """The traits of a task, measured after a short training with Adam.

    Attributes:
        parameters: The number of trainable scalars.
        samples: The number of training samples; None if unknown.
        batch_size: The number of samples in one update.
        depth: The number of weight layers between input and output.
        kinds: The kinds of layers: 'convolution', 'recurrent', 'attention', 'normalisation',
            'embedding', 'linear'.
        matrices: The share of the parameters in weight matrices, embedding tables excluded.
        tables: The share of the parameters in embedding tables.
        sparse: The share of the tables' rows that get no gradient from a batch.
        lazy: Whether the model has sparse gradients.
        noise: The gradient noise scale, in samples; infinite if no signal was found.
        bursts: The largest gradient norm over the median.
        sharpness: The largest eigenvalue of the Hessian; NaN if it could not be measured.
        spread: The largest eigenvalue over the root mean square of all eigenvalues.
        negative: The most negative eigenvalue over the largest, at most 0.
    """

    parameters: int
    samples: int | None
    batch_size: int
    depth: int
    kinds: frozenset[str]
    matrices: float
    tables: float
    sparse: float
    lazy: bool
    noise: float
    bursts: float
    sharpness: float
    spread: float
    negative: float

    def plain(self) -> dict[str, Any]:
        """Return the traits as plain values for JSON; numbers that are not finite become text."""
        values = {**self.__dict__, "kinds": sorted(self.kinds)}
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }


@dataclass(frozen=True)
class Match:
    """How well one optimizer suits a task.

    Attributes:
        name: The name of the optimizer.
        score: Larger is better; 0 if nothing speaks for or against the optimizer.
        reasons: The reasons for and against it, with the measured values.
        settings: Fields of the recipe that are proposed with it.
        installed: Whether it can be built.
    """

    name: str
    score: float
    reasons: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    installed: bool = True


ShownTraits = Iterator[tuple[Trait, float, str]]
"""Traits that a task shows: the trait, a factor for the weight in the row, and the measurement."""

Rule = Callable[[Traits], ShownTraits]
"""Finds traits in the measured values; a row's `suits` says what they mean for its optimizer."""


def match(traits: Traits) -> tuple[Match, ...]:
    """Rank the optimizers for a task, best first; those that cannot train it are left out.

    If scores are equal, an installed optimizer comes first.

    Each rule reads one trait. The weights are judgements, based on the papers that the table names
    and on short runs on twelve bundled tasks. benchmarks/optimizers.py measures their error on
    these and on four other tasks; `etude tune` can check what they propose.

    Args:
        traits: The result of `etude.measure.traits.measure`.
    """
    shown = [trait for rule in RULES for trait in rule(traits)]
    found = []
    for row in ROWS.values():
        if traits.lazy and row.sparse == "no":
            continue
        if row.most_parameters is not None and traits.parameters > row.most_parameters:
            continue
        weighted = list(_weighted_reasons(traits, shown, row))
        score = round(sum(weight for weight, _ in weighted), 2)
        weighted.sort(key=lambda reason: -abs(reason[0]))
        reasons = tuple(words if weight >= 0 else f"but: {words}" for weight, words in weighted)
        found.append(Match(row.name, score, reasons, _settings(traits, row), row.installed))
    return tuple(sorted(found, key=lambda match: (-match.score, not match.installed)))


def recommended(ranked: Sequence[Match]) -> Match:
    """Return the first optimizer that is installed; those of torch always are.

    Args:
        ranked: The result of `match`.
    """
    return next(found for found in ranked if found.installed)


def _weighted_reasons(
    traits: Traits, shown: Sequence[tuple[Trait, float, str]], row: OptimizerRow
) -> Iterator[WeightedReason]:
    """Yield the reasons for and against one optimizer that follow from the task's traits."""
    if row.closure:
        yield from _closure(traits, row)
    if traits.lazy and "sparse gradients" not in row.suits:
        yield 1.0, "takes the model's sparse gradients, but has no rate for each row"
    for trait, factor, measured in shown:
        if trait in row.suits:
            weight, words = row.suits[trait]
            if trait == "curvature" and weight < 0 and "normalisation" in traits.kinds:
                weight /= 2  # normalisation compensates for about half of it
            yield factor * weight, ": ".join(part for part in (measured, words) if part)


def _closure(traits: Traits, row: OptimizerRow) -> Iterator[WeightedReason]:
    """Yield the reason for or against an optimizer that evaluates the loss many times a step."""
    if traits.noise / traits.batch_size > CLEAR and traits.batch_size < (
        traits.samples or math.inf
    ):
        yield -3.0, f"{_noise_of(traits)}: a line search would follow the batch's own noise"
    elif traits.depth > 1:
        yield (
            -2.0,
            "a step costs about twenty gradients, and the loss of a deep network is not convex",
        )
    else:
        weight, words = row.suits.get(
            "one layer", (2.0, "with one layer and a clear gradient, long steps are exact")
        )
        yield weight, f"{_noise_of(traits)}: {words}"


def _usual(traits: Traits) -> ShownTraits:
    yield "usual", 1.0, ""


def _sparsity(traits: Traits) -> ShownTraits:
    if traits.lazy:
        yield "sparse gradients", 1.0, ""
    elif traits.tables > 0.3 and traits.sparse > 0.5:
        seen = f"{traits.sparse:.0%} of the embedding rows get no gradient from a batch"
        yield "rare rows", 1.0, seen


def _noise(traits: Traits) -> ShownTraits:
    if traits.noise / traits.batch_size > NOISY:
        yield "noise", 1.0, _noise_of(traits)


def _noise_of(traits: Traits) -> str:
    return f"the noise scale is {_number(traits.noise)} samples, the batch {traits.batch_size}"


def _curvature(traits: Traits) -> ShownTraits:
    if not math.isfinite(traits.spread):
        return
    said = f"the largest curvature is {_number(traits.spread)} times the root mean square"
    if traits.spread < SPREAD:
        yield "even curvature", 1.0, said
        return
    weight = min(1.0, 0.3 * math.log2(traits.spread / SPREAD) + 0.3)
    yield "curvature", weight, said
    if traits.matrices > 0.1:
        yield "curvature of matrices", round(weight * traits.matrices, 2), said


def _shape(traits: Traits) -> ShownTraits:
    kinds = traits.kinds
    if "attention" in kinds:
        yield "attention", 1.0, ""
    if {"convolution", "normalisation"} <= kinds:
        yield "normalised convolutions", 1.0, ""
    if "recurrent" in kinds:
        yield "recurrent", 1.0, ""
    if traits.depth >= 8 and "normalisation" not in kinds:
        said = f"{traits.depth} layers without normalisation scale the gradient layer by layer"
        yield "deep without normalisation", 1.0, said


def _matrices(traits: Traits) -> ShownTraits:
    if traits.matrices > 0.5:
        large = traits.matrices > 0.8 and traits.parameters >= 10_000
        said = f"{traits.matrices:.0%} of {traits.parameters:,} parameters are in matrices"
        yield "mostly matrices" if large else "matrices", 1.0, said


def _bursts(traits: Traits) -> ShownTraits:
    if traits.bursts >= BURSTS:
        yield "bursts", 1.0, f"the largest gradient is {_number(traits.bursts)} times the median"


def _size(traits: Traits) -> ShownTraits:
    if traits.batch_size >= 4_096:
        yield "large batch", 1.0, f"a batch of {traits.batch_size:,}"
        if "convolution" in traits.kinds:
            yield "large batch of images", 1.0, f"a batch of {traits.batch_size:,}"
    if traits.parameters >= 10**8:
        yield "large model", 1.0, f"{traits.parameters:,} parameters"


RULES: tuple[Rule, ...] = (
    _usual,
    _sparsity,
    _noise,
    _curvature,
    _shape,
    _matrices,
    _bursts,
    _size,
)


def _settings(traits: Traits, row: OptimizerRow) -> dict[str, Any]:
    """Return the fields of a recipe to set besides the optimizer's name."""
    chosen: dict[str, Any] = {}
    chosen |= {f"optimizer.{name}": value for name, value in row.advised.items()}
    if row.closure and traits.samples is not None and traits.samples <= 10_000:
        chosen["batch_size"] = "all"
    if traits.bursts >= BURSTS and not row.closure:
        chosen["clip_percentile"] = 90
    if row.rate_free:
        chosen["lr"] = 1.0
    return chosen


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "unbounded"
