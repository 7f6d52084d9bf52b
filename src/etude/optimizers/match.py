"""Which optimizer suits a task, from what was measured on it: pure rules, with their reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etude.optimizers.row import OptimizerRow, Trait, Voice
from etude.optimizers.table import ROWS

SMALL = 100_000
"""Parameters up to which a step of second order is affordable."""

CLEAR, NOISY = 0.5, 8.0
"""Noise scale over batch size below which a batch's gradient is nearly the whole truth, and above
which noise rules it."""

SPREAD = 12.0
"""Largest over root-mean-square eigenvalue from which one rate cannot suit all directions."""

BURSTS = 4.0
"""Largest over median gradient norm from which a gradient is called unstable."""


@dataclass(frozen=True)
class Traits:
    """What was measured on a task, after a short training with Adam.

    Attributes:
        parameters: Trainable numbers.
        samples: Training samples, None where unknown.
        batch_size: Samples in one update.
        depth: Weight layers between input and output.
        kinds: Of layers: 'convolution', 'recurrent', 'attention', 'normalisation', 'embedding',
            'linear'.
        matrices: Share of the parameters in weight matrices that are no embedding table.
        tables: Share of the parameters in embedding tables.
        sparse: Share of the tables' rows that a batch leaves without a gradient.
        lazy: Whether the model makes sparse gradients.
        noise: Gradient noise scale, in samples; infinite if no signal was seen.
        bursts: Largest over median gradient norm.
        sharpness: Largest eigenvalue of the Hessian; NaN where it could not be measured.
        spread: It over the root mean square of all eigenvalues.
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
        """Return the traits as JSON can hold them; what is not finite as text."""
        values = {**self.__dict__, "kinds": sorted(self.kinds)}
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }


@dataclass(frozen=True)
class Match:
    """One optimizer's standing for a task.

    Attributes:
        name: Of the optimizer.
        score: Larger is better; 0 is what an optimizer has of which nothing is known.
        reasons: What spoke for it and against it, with the numbers.
        settings: Fields of the recipe that go with it.
        installed: Whether it can be built here.
    """

    name: str
    score: float
    reasons: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    installed: bool = True


Heard = Iterator[tuple[Trait, float, str]]
"""Traits that a task shows: the trait, a factor of the row's weight, and what was measured."""

Rule = Callable[[Traits], Heard]
"""One thing to look for in what was measured; a row's `suits` says what it means."""


def match(traits: Traits) -> tuple[Match, ...]:
    """Rank the optimizers for a task, best first; those that cannot train it are left out.

    Of equals, one that is installed comes first.

    Each rule reads one trait. The weights are judgements, made from the papers the table names
    and from short runs on twelve bundled tasks (benchmarks/optimizers.py says how far they miss
    there, and on four others); `etude tune` settles what they propose.

    Args:
        traits: As `etude.measure.traits.measure` returns them.
    """
    shown = [one for rule in RULES for one in rule(traits)]
    found = []
    for row in ROWS.values():
        if traits.lazy and row.sparse == "no":
            continue
        if row.most_parameters is not None and traits.parameters > row.most_parameters:
            continue
        voices = list(_voices(traits, shown, row))
        score = round(sum(weight for weight, _ in voices), 2)
        voices.sort(key=lambda voice: -abs(voice[0]))
        reasons = tuple(words if weight >= 0 else f"but: {words}" for weight, words in voices)
        found.append(Match(row.name, score, reasons, _settings(traits, row), row.installed))
    return tuple(sorted(found, key=lambda one: (-one.score, not one.installed)))


def recommended(ranked: Sequence[Match]) -> Match:
    """Return the first that is installed; torch's own always are.

    Args:
        ranked: As `match` returns them.
    """
    return next(one for one in ranked if one.installed)


def _voices(
    traits: Traits, shown: Sequence[tuple[Trait, float, str]], row: OptimizerRow
) -> Iterator[Voice]:
    """Yield what the task's traits mean for one optimizer."""
    if row.closure:
        yield from _closure(traits, row)
    if traits.lazy and "sparse gradients" not in row.suits:
        yield 1.0, "takes the model's sparse gradients, without a rate for each row"
    for trait, factor, measured in shown:
        if trait in row.suits:
            weight, words = row.suits[trait]
            if trait == "curvature" and weight < 0 and "normalisation" in traits.kinds:
                weight /= 2  # normalisation makes up for half of it
            yield factor * weight, ": ".join(part for part in (measured, words) if part)


def _closure(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    """Yield what speaks for and against steps that evaluate the loss many times."""
    if traits.noise / traits.batch_size > CLEAR and traits.batch_size < (
        traits.samples or math.inf
    ):
        yield -3.0, f"{_noise_of(traits)}: a line search would follow the batch's own noise"
    elif traits.depth > 1:
        yield -2.0, "a step costs some twenty gradients, and deep losses are not convex"
    else:
        weight, words = row.suits.get(
            "one layer", (2.0, "one layer and a clear gradient make for long exact steps")
        )
        yield weight, f"{_noise_of(traits)}: {words}"


def _usual(traits: Traits) -> Heard:
    yield "usual", 1.0, ""


def _sparsity(traits: Traits) -> Heard:
    if traits.lazy:
        yield "sparse gradients", 1.0, ""
    elif traits.tables > 0.3 and traits.sparse > 0.5:
        seen = f"{traits.sparse:.0%} of the embedding rows get no gradient from a batch"
        yield "rare rows", 1.0, seen


def _noise(traits: Traits) -> Heard:
    if traits.noise / traits.batch_size > NOISY:
        yield "noise", 1.0, _noise_of(traits)


def _noise_of(traits: Traits) -> str:
    return f"the noise scale is {_number(traits.noise)} samples, the batch {traits.batch_size}"


def _curvature(traits: Traits) -> Heard:
    if not math.isfinite(traits.spread):
        return
    said = f"the largest curvature is {_number(traits.spread)} times the usual one"
    if traits.spread < SPREAD:
        yield "even curvature", 1.0, said
        return
    weight = min(1.0, 0.3 * math.log2(traits.spread / SPREAD) + 0.3)
    yield "curvature", weight, said
    if traits.matrices > 0.1:
        yield "curvature of matrices", round(weight * traits.matrices, 2), said


def _shape(traits: Traits) -> Heard:
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


def _matrices(traits: Traits) -> Heard:
    if traits.matrices > 0.5:
        large = traits.matrices > 0.8 and traits.parameters >= 10_000
        said = f"{traits.matrices:.0%} of {traits.parameters:,} parameters are in matrices"
        yield "mostly matrices" if large else "matrices", 1.0, said


def _bursts(traits: Traits) -> Heard:
    if traits.bursts >= BURSTS:
        yield "bursts", 1.0, f"the largest gradient is {_number(traits.bursts)} times the median"


def _size(traits: Traits) -> Heard:
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
    """Return what the recipe should say besides the optimizer's name."""
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
    return f"{value:.3g}" if math.isfinite(value) else "beyond measure"
