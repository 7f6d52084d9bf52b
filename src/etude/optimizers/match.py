"""Which optimizer suits a task, from what was measured on it: pure rules, with their reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etude.optimizers.row import OptimizerRow
from etude.optimizers.table import ROWS, get

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


Voice = tuple[float, str]
"""How much a trait weighs for (or against) an optimizer, and the words."""

Rule = Callable[[Traits, OptimizerRow], Iterator[Voice]]

USUAL: Mapping[str, Voice] = {
    "adamw": (1.0, "the usual default: seldom best, rarely far from it"),
    "adam": (0.7, "the usual default without decay"),
    "nadam": (0.6, "Adam with a look ahead"),
    "sgd": (0.5, "the least memory, one setting more to get right"),
    "schedulefree_adamw": (0.4, "needs no schedule"),
    "prodigy": (0.4, "needs no rate"),
}


def match(traits: Traits) -> tuple[Match, ...]:
    """Rank the optimizers for a task, best first; those that cannot train it are left out.

    Of equals, one that is installed comes first.

    Each rule reads one trait. The weights are judgements, made from the papers the table names
    and from short runs on twelve bundled tasks (benchmarks/optimizers.py says how far they miss
    there, and on four others); `etude tune` settles what they propose.

    Args:
        traits: As `etude.measure.traits.measure` returns them.
    """
    found = []
    for row in ROWS.values():
        if traits.lazy and row.sparse == "no":
            continue
        if row.name == "newton" and traits.parameters > 2_000:
            continue
        voices = [voice for rule in RULES for voice in rule(traits, row)]
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


def _usual(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    if row.name in USUAL:
        yield USUAL[row.name]


def _sparsity(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    if traits.lazy:
        words = "takes the model's sparse gradients"
        if row.name == "sparse_adam":
            yield 3.0, f"{words}, and moves only the rows a batch holds"
        elif row.name == "adagrad":
            yield 2.0, words
        else:
            yield 1.0, f"{words}, without a rate for each row"
    elif traits.tables > 0.3 and traits.sparse > 0.5:
        seen = f"{traits.sparse:.0%} of the embedding rows get no gradient from a batch"
        if row.name == "adagrad":
            yield 1.0, f"{seen}: a rare row keeps its large rate"
        elif row.name in ("sgd", "averaged_momentum", "lbfgs", "newton", "newton_cg"):
            yield -1.0, f"{seen}: a rare row moves as little as its few gradients"


def _noise(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    ratio = traits.noise / traits.batch_size
    said = f"the noise scale is {_number(traits.noise)} samples, the batch {traits.batch_size}"
    if row.closure:
        if ratio > CLEAR and traits.batch_size < (traits.samples or math.inf):
            yield -3.0, f"{said}: a line search would follow the batch's own noise"
        elif traits.depth > 1:
            yield -2.0, "a step costs some twenty gradients, and deep losses are not convex"
        else:
            extra = 0.0 if row.name == "newton_cg" else 0.3
            yield 2.0 + extra, f"{said}: one layer and a clear gradient make for long exact steps"
    elif ratio > NOISY and row.name in ("lion", "muon"):
        yield -0.4, f"{said}: a step whose length ignores the gradient's keeps all of that noise"
    elif ratio > NOISY and row.name == "schedulefree_adamw":
        yield 0.2, f"{said}: it averages the weights over it"


def _curvature(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    if not math.isfinite(traits.spread):
        return
    said = f"the largest curvature is {_number(traits.spread)} times the usual one"
    if traits.spread >= SPREAD:
        weight = min(1.0, 0.3 * math.log2(traits.spread / SPREAD) + 0.3)
        whole = f"{said}: it rescales whole directions, not entries alone"
        if row.name in ("soap", "shampoo"):
            yield weight, whole
        elif row.name == "muon" and traits.matrices > 0.1:
            yield round(weight * traits.matrices, 2), f"{whole}, in matrices"
        elif row.name in ("newton_cg", "newton", "lbfgs"):
            yield weight, f"{said}: it divides the curvature out"
        elif row.name in ("sgd", "averaged_momentum"):
            still = 0.5 if "normalisation" in traits.kinds else 1.0
            yield -weight * still, f"{said}: one rate must suit them all"
    elif row.name == "sgd":
        yield 0.5, f"{said}: one rate can suit all directions"


def _shape(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    kinds = traits.kinds
    if "attention" in kinds:
        if row.name == "adamw":
            yield 0.5, "attention is trained with it nearly everywhere"
        elif row.name in ("sgd", "averaged_momentum"):
            yield -1.0, "attention's heavy-tailed gradients need a rate per entry"
    if "convolution" in kinds and "normalisation" in kinds and row.name == "sgd":
        yield 0.8, "normalised convolutions generalise best with it"
    if "recurrent" in kinds and row.name in ("rmsprop", "nadam", "adam"):
        yield 0.4, "recurrent networks are trained with it"
    if traits.matrices > 0.5 and row.name in ("muon", "soap"):
        large = traits.matrices > 0.8 and traits.parameters >= 10_000
        weight = (0.9 if large else 0.5) - (0.2 if row.name == "soap" else 0.0)
        yield weight, f"{traits.matrices:.0%} of {traits.parameters:,} parameters are in matrices"
    if (
        traits.depth >= 8
        and "normalisation" not in kinds
        and row.name in ("sgd", "averaged_momentum")
    ):
        yield -1.0, f"{traits.depth} layers without normalisation scale the gradient layer by layer"


def _bursts(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    if traits.bursts < BURSTS:
        return
    said = f"the largest gradient is {_number(traits.bursts)} times the median"
    if row.name in ("sgd", "averaged_momentum", "adagrad", "lbfgs"):
        yield -0.5, f"{said}: such a step is taken in full unless it is clipped"
    elif row.name in ("lion", "muon", "lamb"):
        yield 0.2, f"{said}: the length of its step ignores that"


def _size(traits: Traits, row: OptimizerRow) -> Iterator[Voice]:
    if traits.batch_size >= 4_096:
        said = f"a batch of {traits.batch_size:,}"
        if row.name == "lamb" or (row.name == "lars" and "convolution" in traits.kinds):
            yield 1.0, f"{said}: made for it"
    if traits.parameters >= 10**8 and row.name in ("adafactor", "lion"):
        yield 0.5, f"{traits.parameters:,} parameters: its state is small"


RULES: tuple[Rule, ...] = (_usual, _sparsity, _noise, _curvature, _shape, _bursts, _size)


def _settings(traits: Traits, row: OptimizerRow) -> dict[str, Any]:
    """Return what the recipe should say besides the optimizer's name."""
    chosen: dict[str, Any] = {}
    if row.name == "sgd":
        chosen["optimizer.momentum"] = 0.9
    if row.closure and traits.samples is not None and traits.samples <= 10_000:
        chosen["batch_size"] = "all"
    if traits.bursts >= BURSTS and not row.closure:
        chosen["clip_percentile"] = 90
    if get(row.name).rate_free:
        chosen["lr"] = 1.0
    return chosen


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "beyond measure"
