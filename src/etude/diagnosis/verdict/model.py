"""The table of a verdict: named weights, read from JSON, and the probabilities that they give."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from etude.diagnosis.finding import Cause
from etude.diagnosis.suspects import facts
from etude.diagnosis.verdict.evidence import Evidence
from etude.diagnosis.verdict.features import (
    OF_CAUSE,
    OF_RUN,
    PROPER,
    Features,
    features_of_causes,
    features_of_run,
)
from etude.errors import BadValueError

SOURCES = ("history", "task", "probes")
"""What evidence there is: a watched run alone; a task and its checks too; probes too."""

TABLE = "table.json"


@dataclass(frozen=True)
class Bin:
    """Verdicts of like probability, on programs that were not used to fit the weights.

    Attributes:
        low: The smallest probability.
        high: The largest.
        said: How many verdicts there were.
        right: How many were right.
    """

    low: float
    high: float
    said: int
    right: int


@dataclass(frozen=True)
class Weights:
    """The weights for one source of evidence.

    Attributes:
        run: Of each feature of the run, for the log odds of a fault.
        intercept: The log odds of a fault where all features are 0.
        cause: Of each feature of a cause; all causes share them.
        bound: The probability of a fault from which a run is called faulty.
        reliability: How often verdicts were right, by their probability.
    """

    run: Mapping[str, float]
    intercept: float
    cause: Mapping[str, float]
    bound: float
    reliability: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class Table:
    """All weights, and the data that they were fitted to.

    Attributes:
        weights: By source.
        certain: How often a cause that is stated as a fact was the right one.
        cases: How many cases the weights were fitted to.
        programs: Of how many programs.
        digest: A hash of these cases and their features.
    """

    weights: Mapping[str, Weights]
    certain: float
    cases: int
    programs: int
    digest: str


def source_of(known: Evidence) -> str:
    """Return what evidence there is."""
    if known.probes is not None and known.probes.probes:
        return "probes"
    return "history" if known.measures is None else "task"


def dot(weights: Mapping[str, float], features: Features) -> float:
    """Return the sum of features times weights."""
    return math.fsum(weight * features[name] for name, weight in weights.items())


@dataclass(frozen=True)
class Odds:
    """The probabilities of a verdict.

    Attributes:
        faulty: That something is wrong.
        causes: Of each cause, the most likely first; they add up to `faulty`.
        certain: Whether a cause is stated as a fact.
        bound: The probability of a fault from which a run is called faulty.
        reliability: How often verdicts on such evidence were right.
    """

    faulty: float
    causes: tuple[tuple[Cause, float], ...]
    certain: bool
    bound: float
    reliability: tuple[Bin, ...] = ()


def odds(known: Evidence, table: Table | None = None) -> Odds:
    """Return the probabilities of every cause.

        P(fault) = 1 / (1 + exp(-(b + v·run)))
        P(cause) = P(fault) · exp(w·cause) / Σ exp(w·cause)

    A cause that is stated as a fact has the probability with which facts were right, at least.

    Args:
        known: What was seen; the order of its findings does not matter.
        table: The weights; None for those that Etude brings.
    """
    table = usual_table() if table is None else table
    return weighed(
        features_of_run(known),
        features_of_causes(known),
        facts(known.findings),
        table.weights[source_of(known)],
        table.certain,
    )


def weighed(
    run: Features,
    causes: Mapping[Cause, Features],
    certain: Sequence[Cause],
    weights: Weights,
    right: float,
) -> Odds:
    """Return the probabilities that features have.

    Args:
        run: The features of the run.
        causes: The features of each cause.
        certain: The causes that are stated as facts.
        weights: The weights of the features.
        right: How often a fact was the right cause.
    """
    score = weights.intercept + dot(weights.run, run)
    faulty = 1.0 / (1.0 + math.exp(-min(max(score, -50.0), 50.0)))
    scores = {c: dot(weights.cause, f) for c, f in causes.items()}
    top = max(scores.values())
    sizes = {cause: math.exp(one - top) for cause, one in scores.items()}
    shares = {cause: size / math.fsum(sizes.values()) for cause, size in sizes.items()}
    stated = set(certain)
    if stated:
        faulty = max(faulty, right)
        own = math.fsum(shares[c] for c in sorted(stated))
        share = max(own, right)
        shares = {
            c: s / own * share if c in stated else s * (1.0 - share) / max(1.0 - own, 1e-300)
            for c, s in shares.items()
        }
    ranked = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return Odds(
        faulty,
        tuple((cause, faulty * share) for cause, share in ranked),
        bool(stated),
        weights.bound,
        weights.reliability,
    )


# ---- the table ---------------------------------------------------------------------------------


@cache
def usual_table() -> Table:
    """Return the table that Etude brings."""
    text = files("etude.diagnosis.verdict").joinpath(TABLE).read_text(encoding="utf-8")
    return read_table(text)


def read_table(text: str) -> Table:
    """Return the table that a JSON text holds. It holds names and numbers, and nothing else.

    Raises:
        BadValueError: If a name or a number is missing, unknown, not finite or out of bounds.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadValueError(f"the table of a verdict is no JSON: {error}") from None
    given = _keys(content, ("made_from", "certain", "weights"), "the table")
    made = _keys(given["made_from"], ("cases", "programs", "digest"), "made_from")
    by_source = _keys(given["weights"], SOURCES, "weights")
    if not isinstance(made["digest"], str):
        raise BadValueError(f"digest is {made['digest']!r}: give a text")
    return Table(
        {name: _weights(one, f"weights.{name}") for name, one in by_source.items()},
        _number(given["certain"], "certain", 0.0, 1.0),
        int(_number(made["cases"], "made_from.cases", 0.0)),
        int(_number(made["programs"], "made_from.programs", 0.0)),
        made["digest"],
    )


def _weights(content: Any, where: str) -> Weights:
    given = _keys(content, ("run", "intercept", "cause", "bound", "reliability"), where)
    if not isinstance(given["reliability"], list):
        raise BadValueError(f"{where}.reliability is no list")
    return Weights(
        _numbers(given["run"], OF_RUN, f"{where}.run"),
        _number(given["intercept"], f"{where}.intercept"),
        _numbers(given["cause"], (*OF_CAUSE, *PROPER), f"{where}.cause"),
        _number(given["bound"], f"{where}.bound", 0.0, 1.0),
        tuple(_bin(one, f"{where}.reliability") for one in given["reliability"]),
    )


def _bin(content: Any, where: str) -> Bin:
    given = _keys(content, ("low", "high", "said", "right"), where)
    low, high = (_number(given[name], f"{where}.{name}", 0.0, 1.0) for name in ("low", "high"))
    said, right = (int(_number(given[name], f"{where}.{name}", 0.0)) for name in ("said", "right"))
    return Bin(low, high, said, right)


def _numbers(content: Any, names: Sequence[str], where: str) -> Mapping[str, float]:
    return {n: _number(v, f"{where}.{n}") for n, v in _keys(content, names, where).items()}


def _keys(content: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    """Return an object that has exactly some names."""
    if not isinstance(content, dict):
        raise BadValueError(f"{where} is {content!r}: give an object")
    if wrong := sorted(set(content) ^ set(names)):
        state = "missing" if wrong[0] in names else "unknown"
        raise BadValueError(f"{where}: {wrong[0]!r} is {state}; its names are {', '.join(names)}")
    return {name: content[name] for name in names}


def _number(value: Any, where: str, low: float = -1e6, high: float = 1e6) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValueError(f"{where} is {value!r}: give a number")
    if not low <= value <= high:
        raise BadValueError(f"{where} is {value!r}: give a number from {low:g} to {high:g}")
    return float(value)
