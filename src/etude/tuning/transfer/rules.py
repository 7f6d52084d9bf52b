"""What becomes of a rate when batch, width, depth or length change: the rules, and their sources.

Each is a power law, lr' = lr · (after / before)^p, so that changes multiply, and there and back
leaves the rate where it was. None is a theorem about your network: `transfer` tries them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from etude import optimizers
from etude.errors import BadTypeError, BadValueError
from etude.recipe import Recipe
from etude.tasks.task import Task

HORIZON = -0.32
"""Exponent of the length in samples, as fitted on language models."""


@dataclass(frozen=True)
class TransferRule:
    """What one change does to the rate: lr' = lr · (after / before)^exponent.

    Attributes:
        about: 'batch size', 'width', 'depth' or 'length'.
        before: As it was.
        after: As it becomes.
        exponent: p; 0 leaves the rate.
        source: The paper.
        holds: Where it is known to hold, and what it leaves out.
    """

    about: str
    before: float
    after: float
    exponent: float
    source: str
    holds: str

    @property
    def factor(self) -> float:
        """By what the rate is multiplied."""
        return float((self.after / self.before) ** self.exponent)

    def text(self) -> str:
        """Say it in a line: the formula, the source, where it holds."""
        ratio = f"{self.after:g}/{self.before:g}"
        power = "" if self.exponent == 1 else f"^{self.exponent:g}"
        what = (
            f"lr × ({ratio}){power} = lr × {self.factor:.4g}" if self.exponent else "lr unchanged"
        )
        return (
            f"{self.about} {self.before:g} → {self.after:g}: {what} ({self.source}). {self.holds}"
        )

    def plain(self) -> dict[str, Any]:
        """Return it as plain values that JSON can hold."""
        return {**vars(self), "factor": self.factor, "text": self.text()}


def batch_rule(recipe: Recipe, before: int, after: int) -> TransferRule:
    """Linear for SGD, the square root for Adam and its relatives; see `transfer.scaling`."""
    if family(recipe, "batch size") == "sgd":
        source, power = "Goyal et al. 2017, arXiv:1706.02677", 1.0
        holds = (
            "Holds while the batch is well below the gradient noise scale; above it, the rate is "
            "too high."
        )
    else:
        source, power = "Malladi et al. 2022, arXiv:2205.10287", 0.5
        holds = "Holds while noise rules the gradient; betas and ε are left as they are."
    return TransferRule("batch size", before, after, power, source, holds)


def width_rule(recipe: Recipe, task: Task, before: int, after: int, *, mup: bool) -> TransferRule:
    """Unchanged under muP; else 1 / width, and 1 / √width for SGD on a cross-entropy."""
    kind = family(recipe, "width")
    if mup:
        return TransferRule(
            "width", before, after, 0.0, "Yang et al. 2022, arXiv:2203.03466",
            "muP's multipliers do it layer by layer; the rate of the base width is right for all.",
        )  # fmt: skip
    if kind == "adam":
        return TransferRule(
            "width", before, after, -1.0, "hidden weights: Yang et al. 2022, arXiv:2203.03466",
            "One rate for all layers, held back by the hidden ones: input and output layers could "
            "take more (lr_mult mup gives it to them), and finite networks often fall less.",
        )  # fmt: skip
    name = getattr(task.loss, "__name__", type(task.loss).__name__).lower()
    if "cross_entropy" in name.replace("crossentropy", "cross_entropy"):
        return TransferRule(
            "width", before, after, -0.5, "Haas et al. 2025, arXiv:2505.22491",
            "The largest stable rate of the standard parametrisation under a cross-entropy.",
        )  # fmt: skip
    return TransferRule(
        "width", before, after, -1.0, "Yang & Hu 2021, arXiv:2011.14522",
        "The largest stable rate of the standard parametrisation; a cross-entropy allows "
        "1/√width (Haas et al. 2025, arXiv:2505.22491).",
    )  # fmt: skip


def depth_rule(recipe: Recipe, before: int, after: int) -> TransferRule:
    """1 / √depth for Adam and its relatives in residual networks; unchanged for SGD."""
    source = "Yang et al. 2023, arXiv:2310.02244"
    if family(recipe, "depth") == "sgd":
        return TransferRule(
            "depth", before, after, 0.0, source,
            "For residual networks whose branches are scaled by 1/√depth; where they are not, a "
            "deeper network takes less, by no known rule.",
        )  # fmt: skip
    return TransferRule(
        "depth", before, after, -0.5, source,
        "For residual networks with branches of one layer, scaled by 1/√depth; elsewhere it is a "
        "heuristic, and a network without shortcuts falls faster.",
    )  # fmt: skip


def length_rule(recipe: Recipe, before: float, after: float) -> TransferRule:
    """The power law of the length in samples that was fitted on language models."""
    family(recipe, "length")
    return TransferRule(
        "length", before, after, HORIZON, "Bjorck et al. 2024, arXiv:2409.19913",
        "Samples; fitted on transformer language models with AdamW and a cosine: elsewhere it is "
        "a heuristic.",
    )  # fmt: skip


def family(recipe: Recipe, about: str) -> str:
    """Return 'sgd' or 'adam': whether the optimizer's step grows with the gradient or does not.

    Raises:
        BadValueError: If no rule is known for the recipe's optimizer.
    """
    name = recipe.optimizer.name
    row = optimizers.get(name)
    if row.family:
        return row.family
    why = " (it sizes its own step)" if row.rate_free else ""
    known = ", ".join(name for name, one in optimizers.ROWS.items() if one.family)
    raise BadValueError(
        f"no rule is known for how the rate of {name} goes with the {about}{why}: rules are known "
        f"for {known}; tune it anew instead"
    )


def pair(name: str, value: object) -> tuple[int, int]:
    """Check a pair (before, after) of whole numbers.

    Raises:
        BadTypeError: If it is no pair of whole numbers.
        BadValueError: If one is below 1.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise BadTypeError(f"{name}={value!r}: give (before, after), such as ({name}=(64, 256))")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int):
            raise BadTypeError(f"{name}={value!r}: {one!r} is not a whole number")
        if one < 1:
            raise BadValueError(f"{name}={value!r} is out of bounds: give numbers of at least 1")
    return value[0], value[1]
